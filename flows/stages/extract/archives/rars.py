"""RAR by rarfile; compressed members need an installed unrar or unar."""

from __future__ import annotations

import os
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
    "it is a compressed RAR archive, and neither unrar nor unar is installed to unpack it:"
    " install one and submit the file again, or pack the export as a ZIP"
)
#: Flags of a member that continues in another part of a split archive, or begins in one.
_SPLIT = 0x3
#: Each unpacked member is a process of the tool, which searches the archive from its beginning.
_MAX_WANTED = 5_000


@contextmanager
def open_rar(path: Path, budget: Budget) -> Iterator[Rar]:
    """Open the RAR archive at ``path``."""
    import rarfile

    # The other tools cannot read every RAR and do not report that.
    rarfile.SEVENZIP_TOOL = rarfile.SEVENZIP2_TOOL = rarfile.BSDTAR_TOOL = os.devnull

    end = 0

    def look(header: Any) -> None:
        nonlocal end
        budget.enter()
        end = header.data_offset + header.add_size
        if header.type == rarfile.RAR_BLOCK_FILE and header.flags & _SPLIT:
            raise BadInput(PART_OF_SEVERAL)

    with reading():
        try:
            # Other parts of a split archive are not read: they would be other source files.
            archive = rarfile.RarFile(str(path), errors="stop", info_callback=look, part_only=True)
        except rarfile.RarCannotExec:  # for a compressed comment
            raise BadInput(_NO_TOOL) from None
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

    def members(self) -> Iterable[Member]:
        """Return the members in the archive's order."""
        for info in self._archive.infolist():
            if not info.is_dir():
                yield Member(info.filename, info.file_size, info.is_file(), info.needs_password(), info)

    def read(self, wanted: Sequence[Member]) -> Contents:
        """Yield the wanted members' chunks."""
        if len(wanted) > _MAX_WANTED:
            raise BadInput(f"over {_MAX_WANTED:,} of its files have to be unpacked: pack it again as a ZIP")
        for member in wanted:
            yield member, self._chunks(member)

    def _chunks(self, member: Member) -> Iterator[bytes]:
        import rarfile

        try:
            with reading():
                stream = self._archive.open(member.handle)
            with stream:
                yield from self._whole(stream, member)
        except TooLarge:
            raise
        except BadInput as error:
            if isinstance(error.__cause__, rarfile.RarCannotExec):
                raise BadInput(_NO_TOOL) from None
            if member.handle.compress_type == rarfile.RAR_M0:
                raise
            raise BadInput(
                f"unrar or unar could not unpack it: {error}, or pack the export as a ZIP"
            ) from error

    def _whole(self, stream: Readable, member: Member) -> Iterator[bytes]:
        size = 0
        for chunk in chunks_of(stream, self._budget):
            size += len(chunk)
            yield chunk
        if size != member.size:
            raise damaged("it ends too early")
