"""RAR by rarfile: it reads the list of contents; unrar, unar, 7z or bsdtar unpack, where one is installed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.errors import BadInput
from flows.stages.archives.base import (
    ENCRYPTED,
    PART_OF_SEVERAL,
    Contents,
    Member,
    chunks_of,
    damaged,
    reading,
)  # fmt: skip
from flows.stages.limits import Budget

_NO_TOOL = (
    "it is a compressed RAR archive, and neither unrar, unar, 7z nor bsdtar is installed to unpack it:"
    " install one and drop the file in again, or pack the export as a ZIP"
)
#: Each member unpacked is a process of that tool, which looks for it from the archive's beginning.
_MOST_WANTED = 5_000


@contextmanager
def open_rar(path: Path, budget: Budget) -> Iterator[Rar]:
    """Open the RAR archive at ``path``."""
    import rarfile

    def count(_: object) -> None:
        budget.enter()

    with reading():
        # Other parts of a split archive are not looked for: they would be other source files.
        archive = rarfile.RarFile(str(path), errors="strict", info_callback=count, part_only=True)
    with archive:
        members = archive.infolist()
        if any(_is_split(info) for info in members):
            raise BadInput(PART_OF_SEVERAL)
        if archive.needs_password() and not members:
            raise BadInput(ENCRYPTED)
        yield Rar(archive, budget)


def _is_split(info: Any) -> bool:
    import rarfile

    return bool(info.flags & (rarfile.RAR_FILE_SPLIT_BEFORE | rarfile.RAR_FILE_SPLIT_AFTER))


class Rar:
    """An archive and its members."""

    def __init__(self, archive: Any, budget: Budget) -> None:
        """Read ``archive``, a rarfile.RarFile, which its maker closes."""
        self._archive, self._budget = archive, budget

    def members(self) -> Iterable[Member]:
        """Return the members in the archive's order."""
        for info in self._archive.infolist():
            if not info.is_dir():
                yield Member(info.filename, info.file_size, info.is_file(), info.needs_password(), info)

    def read(self, wanted: Sequence[Member]) -> Contents:
        """Yield the wanted members' chunks."""
        if len(wanted) > _MOST_WANTED:
            raise BadInput(f"over {_MOST_WANTED:,} files in it are wanted: pack it again as a ZIP")
        for member in wanted:
            yield member, self._chunks(member)

    def _chunks(self, member: Member) -> Iterator[bytes]:
        import rarfile

        with reading():
            try:
                stream = self._archive.open(member.handle)
            except rarfile.RarCannotExec:
                raise BadInput(_NO_TOOL) from None
        with stream:
            size = 0
            for chunk in chunks_of(stream, self._budget):
                size += len(chunk)
                yield chunk
            if size != member.size:
                raise damaged("it ends too early")
