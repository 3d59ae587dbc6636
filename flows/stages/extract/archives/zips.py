"""ZIP by the standard library, including ZIP64, other data before and after, and self-extracting archives."""

from __future__ import annotations

import bz2
import copy
import io
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from flows.errors import BadInput
from flows.stages.extract.archives.base import (
    CHUNK,
    PART_OF_SEVERAL,
    Contents,
    Member,
    Readable,
    chunks_of,
    damaged,
    reading,
    unsupported_method,
)
from flows.stages.extract.archives.names import decode_name
from flows.stages.extract.archives.streams import Unpacked, raw_lzma
from flows.stages.extract.limits import Budget, TooLarge, too_many

_MAX_READ = 64 << 20
_ENTRY = b"PK\x01\x02"
_END = b"PK\x05\x06"
_END_BYTES = 22 + 65_535
_SPANNED = (b"PK\x07\x08", b"PK00")
_ENCRYPTED = 0x1
_UTF8_NAME = 0x800
_FOLDER = ("/", "\\")


@contextmanager
def open_zip(path: Path, budget: Budget) -> Iterator[Zip]:
    """Open the ZIP archive at ``path``."""
    with _BoundedFile(path, budget.limits.entries) as file:
        _check_end(file)
        with reading():
            archive = zipfile.ZipFile(file)
        with archive:
            budget.enter(len(archive.infolist()))
            yield Zip(archive, budget)


class _BoundedFile(io.FileIO):
    """A file that raises BadInput for large reads: zipfile reads a list of contents of any stated length."""

    def __init__(self, path: Path, max_entries: int) -> None:
        super().__init__(path)
        self._max_entries = max_entries

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_READ:
            raise BadInput(
                f"the archive's list of contents is over {_MAX_READ >> 20} MB: pack fewer files together"
            )
        data = super().read(size)
        if len(data) > CHUNK and data.count(_ENTRY) > self._max_entries:
            raise TooLarge(too_many(self._max_entries))
        return data


def _check_end(file: IO[bytes]) -> None:
    """Raise BadInput with a specific reason for an archive that is split or cut off."""
    head = file.read(4)
    if not zipfile.is_zipfile(file):
        if head in _SPANNED:
            raise BadInput(PART_OF_SEVERAL)
        raise BadInput("the ZIP archive is cut off, its list of contents is missing: copy it again in full")
    file.seek(max(0, file.seek(0, io.SEEK_END) - _END_BYTES))
    _, _, end = file.read().rpartition(_END)
    if end[:2] not in {b"\0\0", b"\xff\xff"}:  # the number of its disk; 0xffff: in the ZIP64 record
        raise BadInput(PART_OF_SEVERAL)


class Zip:
    """An archive and its members."""

    def __init__(self, archive: zipfile.ZipFile, budget: Budget) -> None:
        """Read ``archive``, an open ZipFile."""
        self._archive, self._budget = archive, budget

    def members(self) -> Iterable[Member]:
        """Return the members in the order of the list of contents."""
        found = map(_member, self._archive.infolist())
        return (member for member in found if not member.path.endswith(_FOLDER))

    def read(self, wanted: Sequence[Member]) -> Contents:
        """Yield the wanted members' chunks."""
        for member in wanted:
            yield member, self._chunks(member.handle)

    def _chunks(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        if info.compress_type in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            with reading():
                stream = self._archive.open(info)
            with stream:
                yield from chunks_of(stream, self._budget)
        else:
            yield from self._other_chunks(info)

    def _other_chunks(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        """Unpack methods for which zipfile has no bound: a gigabyte of bzip2 from one kilobyte."""
        stored = copy.copy(info)
        stored.compress_type, stored.file_size = zipfile.ZIP_STORED, info.compress_size
        del stored.CRC  # it is the checksum of the unpacked bytes
        size = checksum = 0
        with reading():
            stream = self._archive.open(stored)
        with stream:
            with reading():
                unpacked = _unpacked(stream, info)
            for chunk in chunks_of(unpacked, self._budget):
                size, checksum = size + len(chunk), zlib.crc32(chunk, checksum)
                yield chunk
        if (size, checksum) != (info.file_size, info.CRC):
            raise damaged("wrong checksum")


def _unpacked(stream: Readable, info: zipfile.ZipInfo) -> Unpacked:
    if info.compress_type == zipfile.ZIP_BZIP2:
        return Unpacked(stream, bz2.BZ2Decompressor, info.file_size)
    if info.compress_type == zipfile.ZIP_LZMA:
        head = stream.read(9)  # two bytes of version, two of length, then the properties
        if len(head) < 9 or head[2:4] != b"\5\0":
            raise damaged("its LZMA header")
        return Unpacked(stream, lambda: raw_lzma(head[4:]), info.file_size)
    raise unsupported_method(f"number {info.compress_type}")


def _member(info: zipfile.ZipInfo) -> Member:
    kind = stat.S_IFMT(info.external_attr >> 16)
    return Member(
        path=_name(info),
        size=info.file_size,
        regular=kind in {0, stat.S_IFREG},
        encrypted=bool(info.flag_bits & _ENCRYPTED),
        handle=info,
    )


def _name(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & _UTF8_NAME or info.filename.isascii():
        return info.filename
    return decode_name(info.filename.encode("cp437"))
