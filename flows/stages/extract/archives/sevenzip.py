"""7z: py7zr reads the list of contents; this module unpacks the members in small chunks.

py7zr itself unpacks blocks of up to 128 MB, and with some methods blocks of unbounded size.
"""

from __future__ import annotations

import bz2
import stat
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from flows.errors import BadInput
from flows.stages.extract.archives.base import (
    BEHIND,
    CHUNK,
    ENCRYPTED,
    Contents,
    Member,
    Readable,
    damaged,
    reading,
    unsupported_method,
)  # fmt: skip
from flows.stages.extract.archives.decompressors import (
    Decompressor,
    Inflater,
    Inflater64,
    new_zstd,
    raw_lzma,
    raw_lzma2,
)
from flows.stages.extract.archives.streams import ZSTD_FRAMES, Forward, Slice, Unpacked, is_behind
from flows.stages.extract.limits import Budget, Meter

if TYPE_CHECKING:
    from py7zr import SevenZipFile

_COPY, _LZMA, _LZMA2, _BZIP2 = b"\0", b"\3\1\1", b"!", b"\4\2\2"
_DEFLATE, _DEFLATE64, _ZSTD = b"\4\1\x08", b"\4\1\x09", b"\4\xf7\x11\1"
_BCJ, _AES = b"\3\3\1\3", b"\6\xf1\7\1"
#: Decompressors by the combination of methods.
_NEW: dict[frozenset[bytes], Callable[[bytes], Decompressor]] = {
    frozenset({_LZMA}): raw_lzma,
    frozenset({_LZMA2}): raw_lzma2,
    frozenset({_LZMA2, _BCJ}): partial(raw_lzma2, bcj=True),
    frozenset({_BZIP2}): lambda _: bz2.BZ2Decompressor(),
    frozenset({_DEFLATE}): lambda _: Inflater(-zlib.MAX_WBITS),
    frozenset({_DEFLATE64}): lambda _: Inflater64(),
    frozenset({_ZSTD}): lambda _: new_zstd(),
}
#: Names in 7-Zip of some unsupported methods.
_METHODS = {b"\3\3\1\x1b": "BCJ2", b"\3\4\1": "PPMd", b"\3": "Delta", b"\4\xf7\x11\2": "Brotli"}
#: Unpacked bytes of the list of contents, at most.
_MAX_HEADER = 64 << 20


@contextmanager
def open_sevenzip(path: Path, budget: Budget) -> Iterator[SevenZip]:
    """Open the 7z archive at ``path``."""
    from py7zr import SevenZipFile, archiveinfo
    from py7zr.exceptions import PasswordRequired

    archiveinfo.MAX_NUMFILES = archiveinfo.MAX_NUMFOLDERS = budget.limits.entries
    archiveinfo.MAX_HEADER_SIZE = _MAX_HEADER
    with path.open("rb") as file:
        position, size = struct.unpack("<QQ", file.read(32)[12:28].ljust(16, b"\0"))
        if size > _MAX_HEADER:
            raise BadInput(f"its list of contents is over {_MAX_HEADER >> 20} MB: pack fewer files together")
        behind = is_behind(file, 32 + position + size)
        file.seek(0)
        with reading():
            try:
                archive = SevenZip(SevenZipFile(file), file, budget)
                archive.problem = BEHIND if behind else None
            except PasswordRequired:
                raise BadInput(ENCRYPTED) from None
        yield archive


class _Place(NamedTuple):
    """The position of a member: its stream and first unpacked byte; ``checksum`` if known."""

    stream: int
    start: int
    checksum: int | None


class SevenZip:
    """An archive whose members are packed in streams of one or more members (py7zr: folders)."""

    def __init__(self, archive: SevenZipFile, file: BinaryIO, budget: Budget) -> None:
        """Read ``file``; ``archive`` has its list of contents."""
        self.problem: str | None = None
        self._archive, self._file = archive, file
        budget.enter(len(archive.files))
        main = archive.header.main_streams
        self._streams = main.unpackinfo.folders if main else []
        self._packed = _packed(archive) if main else []
        self._meters = [Meter(budget) for _ in self._streams]

    def members(self) -> Iterable[Member]:
        """Return the members in the order of the list of contents."""
        numbers = {id(stream): number for number, stream in enumerate(self._streams)}
        starts = [0] * len(self._streams)
        for file in self._archive.files:
            if file.is_directory:
                continue
            place, encrypted = None, False
            if not file.emptystream:
                number = numbers[id(file.folder)]
                place = _Place(number, starts[number], file.crc32)
                starts[number] += max(0, file.uncompressed)
                encrypted = any(coder["method"] == _AES for coder in file.folder.coders)
            size = 0 if file.emptystream else file.uncompressed
            regular = file.st_fmt in {None, 0, stat.S_IFREG} and not file.is_symlink
            yield Member(file.filename, size, regular, encrypted, place)

    def read(self, wanted: Sequence[Member]) -> Contents:
        """Yield the wanted members' chunks."""
        for member in wanted:
            if member.handle is None:
                yield member, iter(())
        placed = sorted((m for m in wanted if m.handle), key=lambda member: member.handle[:2])
        for number, members in groupby(placed, key=lambda member: member.handle.stream):
            stream: list[Forward] = []
            for member in members:
                yield member, self._chunks(stream, number, member)

    def _chunks(self, opened: list[Forward], number: int, member: Member) -> Iterator[bytes]:
        """Read a member from its stream, which is in ``opened`` if an earlier member was read from it."""
        with reading():
            if not opened:
                opened.append(Forward(self._unpacked(number), self._meters[number]))
            stream, end = opened[0], member.handle.start + member.size
            stream.seek(member.handle.start)
        checksum = 0
        while stream.tell() < end:
            with reading():
                chunk = stream.read(min(CHUNK, end - stream.tell()))
            if not chunk:
                raise damaged("it ends too early")
            checksum = zlib.crc32(chunk, checksum)
            yield chunk
        if member.handle.checksum not in {None, checksum}:
            raise damaged("wrong checksum")

    def _unpacked(self, number: int) -> Readable:
        stream = self._streams[number]
        packed = Slice(self._file, *self._packed[number])
        coders = {coder["method"]: coder["properties"] or b"" for coder in stream.coders}
        if coders.keys() == {_COPY}:
            return packed
        properties = b"".join(coders.values())  # only one of the supported methods has any
        if new := _NEW.get(frozenset(coders)):
            frames = ZSTD_FRAMES if _ZSTD in coders else ()
            return Unpacked(packed, lambda: new(properties), stream.unpacksizes[-1], frames)
        raise unsupported_method(" and ".join(_METHODS.get(method, method.hex()) for method in coders))


def _packed(archive: SevenZipFile) -> list[tuple[int, int]]:
    """Return the first byte and the end of each stream in the file."""
    main = archive.header.main_streams
    begin = archive.afterheader + main.packinfo.packpos
    edges = [begin + position for position in main.packinfo.packpositions]
    found, at = [], 0
    for stream in main.unpackinfo.folders:
        following = at + len(stream.packed_indices)
        found.append((edges[at], edges[following]))
        at = following
    return found
