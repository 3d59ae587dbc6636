"""Unpack one source file: write its exports, list or write its media.

Archives nested in an archive are opened if they are outside of the folders of exports; in those folders they
are media that people sent each other.
"""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from flows.errors import BadInput
from flows.exports.pages import is_page
from flows.stages.extract.archives import ARCHIVES, HEAD, Archive, Bare, Member, Rar, format_of, open_archive
from flows.stages.extract.archives.base import ENCRYPTED, reading
from flows.stages.extract.entry import Entry, safe_path
from flows.stages.extract.limits import Budget, TooLarge

_EXPORT = re.compile(r".*\.(json|html?)", re.IGNORECASE)
#: Pages that are kept whatever is in them; others are if Telegram Desktop wrote them: people rename parts.
_PAGE = re.compile(r"(.*/)?(messages[^/]*\.html?|export_results\.html|lists/chats\.html)", re.IGNORECASE)
#: Styles, scripts and icons of Telegram Desktop's pages, and metadata of macOS: neither export nor media.
_IGNORED = re.compile(r"(.*/)?((css|js|images)/[^/]+\.(css|js|png)|__MACOSX/.*|\._[^/]*|\.DS_Store)")
_NESTED = re.compile(r".*\.(zip|7z|rar|tar|tgz|gz|bz2|xz|zst)", re.IGNORECASE)
#: Every export has one of these keys near its beginning; other JSON files do not.
_KEYS = re.compile(rb'"(messages|chats|left_chats|personal_information|about)"\s*:')
_KEYS_WITHIN = 16 * 1024
_OUTSIDE = "its path leads out of the archive or is too deep"
_LINK = "links and devices are not followed"
#: Characters of a member's name in a reason.
_NAME_CHARS = 200


class Unpacking:
    """Unpacks one source file into ``entry``. ``media`` are the members that are no exports."""

    def __init__(self, entry: Entry, budget: Budget, *, media: bool = False) -> None:
        """Write media too if ``media`` is set."""
        self.entry = entry
        self.media: list[Member] = []
        self._budget, self._limits = budget, budget.limits
        self._with_media = media
        self._other_json: list[str] = []
        self._left_out: defaultdict[str, list[str]] = defaultdict(list)

    def run(self, source: Path) -> None:
        """Unpack ``source``. Raises BadInput if there is no export in it, TooLarge past the limits."""
        self._open(source)
        if not len(self.entry):
            raise BadInput(self.reason() or self._not_an_export())

    def reason(self) -> str | None:
        """Return for the operator what was left out and why; None if nothing was."""
        parts = [
            f"{names[0][:_NAME_CHARS]!r}{f' and {len(names) - 1} more' if names[1:] else ''} left out: {why}"
            for why, names in self._left_out.items()
        ]
        return "; ".join(parts) or None

    def _open(self, source: Path, below: str = "", nesting: int = 0) -> None:
        before = len(self.entry)
        with open_archive(source, self._budget) as archive:
            wanted, others = self._sort(archive, below)
            folders = self._exports(archive, wanted, others)
            outside = [member for member in others if not _is_below(member.path, folders)]
            inner = self._archives_among(archive, outside)
            opened = self._open_each(archive, inner, nesting)
            media = [member for member in others if member.path not in opened]
            self.media += media
            if self._with_media and len(self.entry) > before:
                for member, chunks in archive.read(media):
                    with self._skipping_if_damaged(member):
                        self.entry.write(member.path, chunks)

    def _sort(self, archive: Archive, below: str) -> tuple[list[Member], list[Member]]:
        """Return the members that may be exports, and the others, with safe paths."""
        wanted: list[Member] = []
        others: list[Member] = []
        with reading():
            members = list(archive.members())
        for member in members:
            path = safe_path(member.path, self._limits.depth, below)
            if path is None or not member.regular:
                # A nested archive may be only media: report only members that may be exports.
                if not below or _EXPORT.fullmatch(member.path):
                    self._left_out[_LINK if path else _OUTSIDE].append(path or member.path)
            elif _IGNORED.fullmatch(path):
                continue
            elif member.encrypted:
                self._left_out[ENCRYPTED].append(path)
            else:
                kind = wanted if _EXPORT.fullmatch(path) else others
                kind.append(member._replace(path=path))
        return wanted, others

    def _exports(self, archive: Archive, wanted: list[Member], others: list[Member]) -> set[str]:
        """Write the exports; return their folders. Pages of other programs are added to ``others``."""
        folders = set()
        for member, chunks in archive.read(wanted):
            with self._skipping_if_damaged(member):
                content = _if_export(member.path, chunks)
                if content is None:
                    if member.path.lower().endswith(".json"):
                        self._other_json.append(member.path)
                    else:
                        others.append(member)
                    continue
                if isinstance(archive, Bare):
                    self.entry.link(member.path, archive.path)
                else:
                    self.entry.write(member.path, content)
                folders.add(member.path.rpartition("/")[0])
        return folders

    def _archives_among(self, archive: Archive, members: list[Member]) -> list[Member]:
        if isinstance(archive, Rar):  # each member would start a process
            members = [member for member in members if _NESTED.fullmatch(member.path)]
        found = []
        for member, chunks in archive.read(members):
            if format_of(_first(chunks)) in ARCHIVES:
                found.append(member)
        return found

    def _open_each(self, archive: Archive, members: list[Member], nesting: int) -> set[str]:
        """Open the archives nested in ``archive``; return the paths of those that have exports."""
        opened = set()
        for member, chunks in archive.read(members):
            exports, media = len(self.entry), len(self.media)
            with self._skipping_if_damaged(member), self._spooled(chunks, nesting) as spool:
                self._open(spool, member.path, nesting + 1)
            if len(self.entry) > exports:
                opened.add(member.path)
            else:
                del self.media[media:]
        return opened

    @contextmanager
    def _spooled(self, chunks: Iterator[bytes], nesting: int) -> Iterator[Path]:
        if nesting >= self._limits.nesting:
            raise BadInput(
                f"archives within archives are opened {self._limits.nesting} deep:"
                " unpack it and submit the inner archive"
            )
        with tempfile.NamedTemporaryFile(dir=self.entry.directory.parent, prefix=".nested-") as file:
            file.writelines(chunks)
            file.flush()
            yield Path(file.name)

    @contextmanager
    def _skipping_if_damaged(self, member: Member) -> Iterator[None]:
        """Leave ``member`` out if it is damaged."""
        try:
            yield
        except TooLarge:
            raise
        except BadInput as error:
            self._left_out[str(error)].append(member.path)

    def _not_an_export(self) -> str:
        if self._other_json:
            return (
                f"not a Telegram export: {self._other_json[0]!r} has no chats;"
                " export again from Telegram Desktop as machine-readable JSON"
            )
        names = [member.path for member in self.media]
        found = f"among its {len(names)} files, for example {names[0]!r}" if names else "in it, it is empty"
        return f"not a Telegram export: no result.json or messages.html {found}"


def _if_export(path: str, chunks: Iterator[bytes]) -> Iterator[bytes] | None:
    """Return all chunks, or None if they are JSON or HTML of another kind."""
    if _PAGE.fullmatch(path):
        return chunks
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= _KEYS_WITHIN:
            break
    is_json = path.lower().endswith(".json")
    found = _KEYS.search(head, 0, _KEYS_WITHIN) if is_json else is_page(head)
    return chain([head], chunks) if found else None


def _first(chunks: Iterator[bytes]) -> bytes:
    """Return the beginning of a member; empty if it is damaged, which is reported if the member is read."""
    try:
        return next(chunks, b"")[:HEAD]
    except TooLarge:
        raise
    except BadInput:
        return b""


def _is_below(path: str, folders: set[str]) -> bool:
    return any(folder in folders for folder in _folders_of(path))


def _folders_of(path: str) -> Iterator[str]:
    """Yield every folder above ``path``, beginning with the archive's root."""
    yield ""
    for slash in re.finditer("/", path):
        yield path[: slash.start()]
