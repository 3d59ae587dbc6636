"""ZIP, including ZIP64, archives joined in one file, other data before it, and self-extracting archives.

:mod:`flows.stages.extract.archives.zip_list` reads the list of contents; names and sizes are those of the
list even if a member's own header differs, as in other tools.
"""

from __future__ import annotations

import bz2
import mmap
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from flows.errors import BadInput
from flows.stages.extract.archives.base import (
    Contents,
    EndsEarly,
    Member,
    Readable,
    chunks_of,
    damaged,
    reading,
    unsupported_method,
)
from flows.stages.extract.archives.decompressors import Inflater, Inflater64, new_zstd, raw_lzma
from flows.stages.extract.archives.streams import ZSTD_FRAMES, Slice, Unpacked
from flows.stages.extract.archives.zip_headers import entries_by_headers
from flows.stages.extract.archives.zip_list import ENTRY, LOCAL, WRAP, Entry, Listed, NoList, read_lists
from flows.stages.extract.limits import Budget, TooLarge

_STORED, _DEFLATED, _DEFLATED64, _BZIP2, _LZMA, _ZSTD = 0, 8, 9, 12, 14, {20, 93}
_ENCRYPTED = 0x1
_LOCAL_SIZE = 30
#: Bytes of the path to which a link leads, at most.
_LONGEST_TARGET = 4096
#: The bytes at the end of a stored member: a data descriptor, the next member or the list of contents.
_FOLLOWING = (b"PK\x07\x08", LOCAL, ENTRY)
_SPECIAL = {stat.S_IFLNK, stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK}


@contextmanager
def open_zip(path: Path, budget: Budget, *, nested: bool = False) -> Iterator[Zip]:
    """Open the ZIP archive at ``path``; if it is ``nested``, its list of contents must be there."""
    with path.open("rb") as file:
        listed = _listed(file, budget.limits.entries, nested=nested)
        budget.enter(len(listed.entries))
        yield Zip(file, listed, budget)


def _listed(file: BinaryIO, max_entries: int, *, nested: bool) -> Listed:
    try:
        return read_lists(file, max_entries)
    except NoList as error:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            entries = entries_by_headers(data, max_entries)
        if nested or not entries:
            raise
        return Listed(entries, str(error))


class Zip:
    """An archive and its members."""

    def __init__(self, file: BinaryIO, listed: Listed, budget: Budget) -> None:
        """Read ``file``, whose lists of contents are ``listed``."""
        self._file, self._entries, self._budget = file, listed.entries, budget
        self.problem = listed.problem

    def members(self) -> Iterable[Member]:
        """Return the members in the order of the list of contents."""
        return (self._member(entry) for entry in self._entries if not entry.is_folder)

    def _member(self, entry: Entry) -> Member:
        kind = stat.S_IFMT(entry.mode)
        is_link = kind == stat.S_IFLNK and not entry.flags & _ENCRYPTED and entry.size <= _LONGEST_TARGET
        return Member(
            path=entry.name,
            size=entry.size,
            regular=kind not in _SPECIAL,
            encrypted=bool(entry.flags & _ENCRYPTED),
            handle=entry,
            target=self._target(entry) if is_link else "",
        )

    def _target(self, entry: Entry) -> str:
        """Return the path to which a link leads, its content, from the root; empty if it is absolute."""
        try:
            content = b"".join(self._chunks(entry))[:_LONGEST_TARGET].decode("utf-8", "replace")
        except TooLarge:
            raise
        except BadInput:
            return ""
        folder = entry.name.replace("\\", "/").rpartition("/")[0]
        return "" if not content or content.startswith("/") else f"{folder}/{content}"

    def read(self, wanted: Sequence[Member]) -> Contents:
        """Yield the wanted members' chunks."""
        for member in wanted:
            yield member, self._chunks(member.handle)

    def _chunks(self, entry: Entry) -> Iterator[bytes]:
        size = checksum = 0
        with reading():
            stream = self._stream(entry)
        for chunk in chunks_of(stream, self._budget):
            size, checksum = size + len(chunk), zlib.crc32(chunk, checksum)
            yield chunk
        if (size - entry.size) % WRAP:
            is_cut = entry.offset + entry.packed > entry.limit
            raise EndsEarly if is_cut else damaged("wrong size")
        if checksum != entry.checksum:
            raise damaged("wrong checksum")

    def _stream(self, entry: Entry) -> Readable:
        """Return the unpacked bytes of a member."""
        start = self._start(entry)
        if entry.method == _STORED:
            return Slice(self._file, start, self._end(entry, start))
        # A deflated member marks its end, which may be beyond the stated one: that is modulo 4 GiB.
        wrapped = not entry.zip64 and entry.limit - start > WRAP
        packed = Slice(self._file, start, entry.limit if wrapped else start + entry.packed)
        return _unpacked(packed, entry)

    def _start(self, entry: Entry) -> int:
        """Return the position of a member's packed bytes."""
        found: int | None = None
        for at in _positions(entry, entry.base + entry.offset, _LOCAL_SIZE):
            self._file.seek(max(at, 0))
            header = self._file.read(_LOCAL_SIZE + len(entry.raw_name))
            if at < 0 or not header.startswith(LOCAL) or len(header) < _LOCAL_SIZE:
                continue
            start: int = at + _LOCAL_SIZE + sum(struct.unpack_from("<2H", header, 26))
            if header[_LOCAL_SIZE:] == entry.raw_name:
                return start
            found = found or start  # another name, as with other slashes or in another character set
        if found is None:
            raise damaged("its header is not at its place")
        return found

    def _end(self, entry: Entry, start: int) -> int:
        """Return the position behind a stored member."""
        stated = start + entry.packed
        for at in _positions(entry, stated, 0):
            self._file.seek(at)
            following = self._file.read(4)
            if following in _FOLLOWING or following == struct.pack("<L", entry.checksum):
                return at
        return stated


def _positions(entry: Entry, stated: int, room: int) -> Iterable[int]:
    """Return the positions that ``stated`` can stand for, with ``room`` bytes before the end of members."""
    last = stated if entry.zip64 else max(stated, entry.limit - room)
    return range(stated, last + 1, WRAP)


def _unpacked(packed: Readable, entry: Entry) -> Unpacked:
    if entry.method == _DEFLATED:
        return Unpacked(packed, partial(Inflater, -zlib.MAX_WBITS))
    if entry.method == _DEFLATED64:
        return Unpacked(packed, Inflater64)
    if entry.method in _ZSTD:
        return Unpacked(packed, new_zstd, entry.size, ZSTD_FRAMES)
    if entry.method == _BZIP2:
        return Unpacked(packed, bz2.BZ2Decompressor, entry.size)
    if entry.method == _LZMA:
        head = packed.read(9)  # two bytes of version, two of length, then the properties
        if len(head) < 9 or head[2:4] != b"\5\0":
            raise damaged("its LZMA header")
        return Unpacked(packed, lambda: raw_lzma(head[4:]), entry.size)
    raise unsupported_method(f"number {entry.method}")
