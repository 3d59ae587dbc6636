"""Unpack one source file: write its exports, list or write its media.

Archives nested in an archive are opened unless they are in a folder for media of an export: there they are
media that people sent each other. So are exports whose names are not those of exports.
"""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.errors import BadInput
from flows.stages.extract.archives import (
    PART_OF_SEVERAL,
    Archive,
    Bare,
    Compressed,
    Member,
    Rar,
    open_archive,
)
from flows.stages.extract.archives.base import ENCRYPTED, EndsEarly, reading
from flows.stages.extract.contents import NESTED, BeforeCut, Text, has_media_name, kind_of, named
from flows.stages.extract.entry import Entry, safe_path
from flows.stages.extract.limits import Budget, TooLarge
from flows.stages.extract.links import followed
from flows.stages.extract.places import is_media, parts_among

#: Members that may be exports by their names, or copies of one (``result.json.bak``); their contents decide.
_EXPORT = re.compile(
    r".*\.(jsonl?|ndjson|x?html?)(?![a-z])[^/]*|(.*/)?(result|messages)[^/]*", re.IGNORECASE | re.DOTALL
)
#: An export in JSON, or a copy or a part of one.
_RESULT = re.compile(r"(.*/)?result( ?\(\d+\)|[ _-]?\d+)?\.json", re.IGNORECASE)
#: Styles, scripts and icons of Telegram Desktop's pages, what it writes beside their lists of chats, and
#: metadata of macOS: neither export nor media.
_IGNORED = re.compile(
    r"(.*/)?((css|js|images)/[^/]+\.(css|js|png)|lists/other_data\.json|\._[^/]*|\.DS_Store)"
)
_OUTSIDE = "its path leads out of the archive or is too deep"
_LINK = "devices, and links to what is not in the archive, are not followed"
_TOO_MANY = "too many files of this RAR archive may be exports by their names: pack it again as a ZIP"
#: Members of a RAR archive that may be exports although their names are not those of exports.
_MOST_LOOKED_INTO = 50
#: Characters of a member's name in a reason.
_NAME_CHARS = 200


class Unpacking:
    """Unpacks one source file into ``entry``.

    ``media`` are the members that are not exports; ``exports`` is the number of files written for convert.
    """

    def __init__(self, entry: Entry, budget: Budget, *, media: bool = False) -> None:
        """Write media too if ``media`` is set."""
        self.entry = entry
        self.media: list[Member] = []
        self.exports = 0
        self._budget, self._limits = budget, budget.limits
        self._with_media = media
        self._other_json: list[tuple[str, str]] = []
        #: Whether the source file is one file and not an archive: its name is not repeated in reasons.
        self._is_single = False
        #: Paths of members that look like exports but are not, and why they are not.
        self._seeming: dict[str, str] = {}
        self._left_out: defaultdict[str, list[str]] = defaultdict(list)
        self._problems: list[str] = []

    def run(self, source: Path) -> None:
        """Unpack ``source``. Raises BadInput if there is no export in it, TooLarge past the limits."""
        self._open(source)
        if not self.exports:
            raise BadInput(self.reason() or self._not_an_export())
        for path, why in self._seeming.items():
            self._left_out[why].append(path)

    @property
    def incomplete(self) -> bool:
        """Return whether an archive itself was not read whole, beyond single members."""
        return bool(self._problems)

    def reason(self) -> str | None:
        """Return for the operator which members were left out and why; None if none was."""
        parts = [
            why if self._is_single else f"{_shown(names)} left out: {why}"
            for why, names in self._left_out.items()
            if names
        ]
        return "; ".join([*parts, *self._problems]) or None

    def _open(self, source: Path, below: str = "", nesting: int = 0) -> None:
        before = self.exports
        with open_archive(source, self._budget, nested=bool(below)) as archive:
            self._is_single |= not below and isinstance(archive, Bare | Compressed)
            wanted, others = self._sort(archive, below)
            folders, no_exports = self._exports(archive, wanted)
            others += no_exports
            outside = [member for member in others if not is_media(member.path, folders)]
            for path in [path for path in self._seeming if is_media(path, folders)]:
                del self._seeming[path]
            inner, renamed = self._among(archive, outside)
            self._exports(archive, renamed)
            opened = self._open_each(archive, inner, nesting).union(member.path for member in renamed)
            self._name_parts({member.path for member in outside} - opened)
            media = [member for member in others if member.path not in opened]
            self.media += media
            if self._with_media and self.exports > before:
                for member, chunks in archive.read(media):
                    with self._skipping_if_damaged(member):
                        self.entry.write(member.path, chunks)
            if archive.problem:
                self._problems.append(f"{below!r}: {archive.problem}" if below else archive.problem)

    def _sort(self, archive: Archive, below: str) -> tuple[list[Member], list[Member]]:
        """Return the members that may be exports, and the others, with safe paths."""
        wanted: list[Member] = []
        others: list[Member] = []
        with reading():
            members = list(followed(archive.members()))
        for member in members:
            path = safe_path(member.path, self._limits.depth, below)
            if path is None or not member.regular:
                # A nested archive may be only media: report only members that may be exports.
                if not below or _EXPORT.fullmatch(member.path):
                    self._left_out[_LINK if path else _OUTSIDE].append(path or member.path)
            elif _IGNORED.fullmatch(path) or (member.target and not _EXPORT.fullmatch(path)):
                continue  # the target of a link is examined at its own place
            elif member.encrypted:
                self._left_out[ENCRYPTED].append(path)
            else:
                kind = wanted if _EXPORT.fullmatch(path) else others
                kind.append(member._replace(path=path))
        return wanted, others

    def _exports(self, archive: Archive, wanted: list[Member]) -> tuple[set[str], list[Member]]:
        """Write the exports; return their folders, and the members that are not exports."""
        folders, others = set(), []
        for member, chunks in archive.read(wanted):
            with self._skipping_if_damaged(member):
                before_cut = BeforeCut(chunks)
                text = Text(before_cut)
                if text.is_blank:
                    before_cut.check()
                if not (form := text.form(member.path)):
                    others.append(member)
                    if member.path.lower().endswith(".json"):
                        self._other_json.append((member.path, text.lack))
                    name = _packed_name(member.path) if isinstance(archive, Compressed) else member.path
                    if text.has_messages or _RESULT.fullmatch(name):
                        self._seeming[member.path] = text.lack
                    before_cut.check()
                    continue
                if isinstance(archive, Bare) and not text.encoding:
                    self.entry.link(member.path, archive.path)
                else:
                    self.entry.write(named(member.path, form), text.chunks())
                self.exports += 1
                folders.add(member.path.rpartition("/")[0])
                if before_cut.is_cut and not archive.problem:  # whose reason says so already
                    name = "it" if self._is_single else repr(member.path[:_NAME_CHARS])
                    self._problems.append(f"{name} is cut off: the rest is missing")
        return folders, others

    def _among(self, archive: Archive, members: list[Member]) -> tuple[list[Member], list[Member]]:
        """Return the archives nested in ``archive``, and the exports that have no name of an export."""
        if isinstance(archive, Rar):  # each member may start a process
            members = self._likely(members)
        archives, exports = [], []
        for member, chunks in archive.read(members):
            try:
                kind = kind_of(member.path, chunks)
            except TooLarge:
                raise
            except EndsEarly:  # the archive itself is reported as cut off
                continue
            except BadInput:  # what its name says; it is read as such and reported as damaged
                if NESTED.fullmatch(member.path):
                    archives.append(member)
                elif not has_media_name(member.path):
                    exports.append(member)
            else:
                if kind == "archive":
                    archives.append(member)
                elif kind == "export":
                    exports.append(member)
        return archives, exports

    def _likely(self, members: list[Member]) -> list[Member]:
        """Return the members that are not media by their names; report the others if there are too many."""
        archives, others = [], []
        for member in members:
            if NESTED.fullmatch(member.path):
                archives.append(member)
            elif not has_media_name(member.path):
                others.append(member)
        self._left_out[_TOO_MANY] += [member.path for member in others[_MOST_LOOKED_INTO:]]
        return archives + others[:_MOST_LOOKED_INTO]

    def _open_each(self, archive: Archive, members: list[Member], nesting: int) -> set[str]:
        """Open the archives nested in ``archive``; return the paths of those that have exports."""
        opened = set()
        for member, chunks in archive.read(members):
            exports, media = self.exports, len(self.media)
            with self._skipping_if_damaged(member), self._spooled(chunks, nesting) as spool:
                self._open(spool, member.path, nesting + 1)
            if self.exports > exports:
                opened.add(member.path)
            else:
                del self.media[media:]
        return opened

    def _name_parts(self, paths: set[str]) -> None:
        """Leave out those of the unread ``paths`` that are parts of split archives."""
        named = {path for names in self._left_out.values() for path in names}
        self._left_out[PART_OF_SEVERAL] += sorted(parts_among(paths, named) - named)

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
            path, lack = self._other_json[0]
            return lack if self._is_single else f"{path[:_NAME_CHARS]!r}: {lack}"
        names = [member.path for member in self.media]
        found = f"among its {len(names)} files, for example {names[0]!r}" if names else "in it, it is empty"
        return f"not a Telegram export: no result.json or messages.html {found}"


def _packed_name(path: str) -> str:
    """Return the name before compression: ``a.tgs/result.json`` is not a ``result.json``."""
    return path.rpartition("/")[0].rpartition(".")[0]


def _shown(names: list[str]) -> str:
    return f"{names[0][:_NAME_CHARS]!r}{f' and {len(names) - 1} more' if names[1:] else ''}"
