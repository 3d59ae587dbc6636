"""RAR by rarfile; compressed members need an installed program (:mod:`.rar_tools`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.errors import BadInput
from flows.stages.extract.archives.base import (
    BEHIND,
    ENCRYPTED,
    PART_OF_SEVERAL,
    Contents,
    EndsEarly,
    Member,
    Readable,
    chunks_of,
    damaged,
    reading,
)
from flows.stages.extract.archives.streams import is_behind
from flows.stages.extract.limits import Budget, TooLarge

_NO_TOOL = (
    "it is a compressed RAR archive, and none of unrar, unar, 7z and bsdtar is installed to unpack it:"
    " install unar and process its batch again with `tdp backfill`, or pack the export as a ZIP"
)
#: Flags of a member that continues in another part of a split archive, or begins in one.
_SPLIT = 0x3
#: Each unpacked member is a process of the tool, which searches the archive from its beginning.
_MAX_WANTED = 5_000
#: Bytes of the path to which a link leads, at most.
_LONGEST_TARGET = 4096


@contextmanager
def open_rar(path: Path, budget: Budget) -> Iterator[Rar]:
    """Open the RAR archive at ``path``."""
    import rarfile

    from flows.stages.extract.archives import rar_tools

    rar_tools.read_without_comments()
    end = 0

    def look(header: Any) -> None:
        nonlocal end
        budget.enter()
        end = header.data_offset + header.add_size
        if header.type == rarfile.RAR_BLOCK_FILE and header.flags & _SPLIT:
            raise BadInput(PART_OF_SEVERAL)

    with reading():
        # Other parts of a split archive are not read: they would be other source files.
        archive = rarfile.RarFile(str(path), errors="stop", info_callback=look, part_only=True)
    with archive:
        if archive.needs_password() and not archive.infolist():
            raise BadInput(ENCRYPTED)
        problem = _problem(path, archive.strerror(), end)
        if problem and not archive.infolist():
            raise BadInput(problem)
        yield Rar(archive, budget, problem)


def _problem(path: Path, error: str | None, end: int) -> str | None:
    """Return what was not read: behind the ``error`` of a header, or behind the archive's ``end``."""
    if error:
        return f"not read to its end: {damaged(error)}"
    if end > path.stat().st_size:
        return f"not read to its end: {EndsEarly()}"
    with path.open("rb") as file:
        return BEHIND if is_behind(file, end) else None


class Rar:
    """An archive and its members."""

    def __init__(self, archive: Any, budget: Budget, problem: str | None) -> None:
        """Read ``archive``, an open rarfile.RarFile."""
        self._archive, self._budget, self.problem = archive, budget, problem
        self._has_tool = False

    def members(self) -> Iterable[Member]:
        """Return the members in the archive's order."""
        for info in self._archive.infolist():
            if not info.is_dir():
                target = self._target(info) if info.is_symlink() else ""
                yield Member(
                    info.filename, info.file_size, info.is_file(), info.needs_password(), info, target
                )

    def _target(self, info: Any) -> str:
        """Return the path to which a link leads, from the root; empty if it is absolute or not known."""
        if info.needs_password() or info.file_size > _LONGEST_TARGET:
            return ""
        try:
            content = b"".join(self._chunks(info)).decode("utf-8", "replace").replace("\\", "/")
        except TooLarge:
            raise
        except BadInput:
            return ""
        folder = info.filename.rpartition("/")[0]
        return "" if not content or content.startswith("/") else f"{folder}/{content}"

    def read(self, wanted: Sequence[Member]) -> Contents:
        """Yield the wanted members' chunks."""
        if len(wanted) > _MAX_WANTED:
            raise BadInput(f"over {_MAX_WANTED:,} of its files have to be unpacked: pack it again as a ZIP")
        for member in wanted:
            yield member, self._chunks(member.handle)

    def _chunks(self, info: Any) -> Iterator[bytes]:
        is_packed = self._choose_tool(info)
        try:
            with reading():
                stream = self._archive.open(info)
            with stream:
                yield from self._whole(stream, info)
        except TooLarge:
            raise
        except BadInput as error:
            if not is_packed:
                raise
            raise BadInput(
                f"unrar, unar, 7z or bsdtar could not unpack it: {error}, or pack the export as a ZIP"
            ) from error

    def _choose_tool(self, info: Any) -> bool:
        """Return whether a program has to unpack this member, and choose one at the first of them."""
        import rarfile

        from flows.stages.extract.archives import rar_tools

        if info.is_symlink() or (info.compress_type == rarfile.RAR_M0 and not info.file_redir):
            return False
        if not self._has_tool:
            if not rar_tools.choose(self._archive, info):
                raise BadInput(_NO_TOOL)
            self._has_tool = info.file_size > 0  # an empty member shows nothing
        return True

    def _whole(self, stream: Readable, info: Any) -> Iterator[bytes]:
        size = 0
        for chunk in chunks_of(stream, self._budget):
            size += len(chunk)
            yield chunk
        if not info.is_symlink() and size != info.file_size:
            raise damaged("it ends too early")
