"""A writer of ZIP archives, byte by byte, as packers write them that :mod:`zipfile` cannot imitate."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

LOW = 0xFFFFFFFF
DESCRIPTOR, UTF8 = 0x8, 0x800


@dataclass(frozen=True)
class RawEntry:
    """One entry, deflated, stored or packed by another ``method``; its headers may differ from each other.

    ``hole`` bytes of zeros, which a file system need not store, are its content if it is not 0.
    """

    name: bytes
    content: bytes = b""
    local_name: bytes | None = None
    extra: bytes = b""
    local_extra: bytes = b""
    flags: int = 0
    mode: int = 0o100644
    dos: int = 0
    deflate: bool = True
    method: int = 8
    pack: Callable[[bytes], bytes] | None = None
    hole: int = 0

    @property
    def size(self) -> int:
        return self.hole or len(self.content)


def write_raw_zip(file: BinaryIO, *entries: RawEntry) -> None:
    """Write an archive without ZIP64: sizes and offsets are modulo 2**32, as macOS writes them."""
    central = [_write_entry(file, entry) for entry in entries]
    start = file.tell()
    file.write(b"".join(central))
    count, length = len(entries), sum(map(len, central))
    file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, length, start & LOW, 0))


def _write_entry(file: BinaryIO, entry: RawEntry) -> bytes:
    """Write one entry; return its entry in the list of contents."""
    offset, local_name = file.tell(), entry.name if entry.local_name is None else entry.local_name
    packed = (entry.pack or _deflated)(entry.content) if entry.deflate else entry.content
    method = entry.method if entry.deflate else 0
    sizes = struct.pack("<3L", zlib.crc32(entry.content), (entry.hole or len(packed)) & LOW, entry.size & LOW)
    described = bool(entry.flags & DESCRIPTOR)
    head = struct.pack("<4s5H", b"PK\3\4", 20, entry.flags, method, 0, 0x5A21)
    lengths = struct.pack("<2H", len(local_name), len(entry.local_extra))
    file.write(head + (bytes(12) if described else sizes) + lengths + local_name + entry.local_extra)
    file.seek(entry.hole, io.SEEK_CUR)
    file.write(packed + (b"PK\7\x08" + sizes if described else b""))
    head = struct.pack("<4s6H", b"PK\1\2", 0x0315, 20, entry.flags, method, 0, 0x5A21)
    rest = struct.pack(
        "<5H2L", len(entry.name), len(entry.extra), 0, 0, 0, entry.mode << 16 | entry.dos, offset & LOW
    )
    return head + sizes + rest + entry.name + entry.extra


def _deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


def raw_zip(*entries: RawEntry) -> bytes:
    """Return an archive with these entries."""
    buffer = io.BytesIO()
    write_raw_zip(buffer, *entries)
    return buffer.getvalue()
