"""Links within one archive: each becomes a member with the content of the one to which it leads."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator

from flows.stages.extract.archives import Member

#: Links from one to the next, at most.
_MOST_STEPS = 10


def followed(members: Iterable[Member]) -> Iterator[Member]:
    """Yield the members of an archive; links to members as regular ones, those to folders not at all.

    The files of a folder are read there. Links that lead out of the archive or to nothing are not changed.
    """
    there = list(members)
    links = [member for member in there if member.target]
    if not links:
        yield from there
        return
    known = {_key(member.path): member for member in there}
    folders = {folder for path in known for folder in _folders_of(path)}
    for member in there:
        if not member.target:
            yield member
        elif (found := _end(member, known)) is not None:
            yield found._replace(path=member.path, target=member.target)
        elif _key(member.target) not in folders:
            yield member


def _end(link: Member, known: dict[str, Member]) -> Member | None:
    """Return the regular member to which a link leads, maybe by way of other links; None if there is none."""
    at: Member | None = link
    for _ in range(_MOST_STEPS):
        at = known.get(_key(at.target)) if at else None
        if at and not at.target:
            return at if at.regular else None
    return None


def _key(path: str) -> str:
    """Return the path from the archive's root; a path that leads out of it begins with ``..``."""
    return posixpath.normpath(path.replace("\\", "/").lstrip("/"))


def _folders_of(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path
