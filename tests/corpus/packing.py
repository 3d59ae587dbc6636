"""Functions that write archives: valid ones, and invalid ones that no packer writes."""

from __future__ import annotations

import io
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import py7zr
from backports import zstd

Name = str | zipfile.ZipInfo
Files = tuple[Name, bytes]

# --- ZIP ---


def zipped(*members: Files, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of a duplicate name, which is intended
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def zip64(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w", force_zip64=True) as member,
    ):
        member.write(content)
    return buffer.getvalue()


def special(name: str, kind: int) -> zipfile.ZipInfo:
    """Return a link or a device, as Unix packers write them into the attributes."""
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o777) << 16
    return info


def patched(data: bytes, name: bytes, local: tuple[int, bytes], central: tuple[int, bytes]) -> bytes:
    """Overwrite bytes at these offsets of the two headers of the member called ``name``."""
    patched = bytearray(data)
    headers = ((b"PK\x03\x04", 30, *local), (b"PK\x01\x02", 46, *central))
    for signature, name_at, offset, value in headers:
        start = -1
        while (start := patched.find(signature, start + 1)) >= 0:
            if patched[start + name_at :].startswith(name):
                patched[start + offset : start + offset + len(value)] = value
    return bytes(patched)


def encrypted(data: bytes, name: bytes) -> bytes:
    return patched(data, name, local=(6, b"\1"), central=(8, b"\1"))


def with_method(data: bytes, name: bytes, method: int) -> bytes:
    number = struct.pack("<H", method)
    return patched(data, name, local=(8, number), central=(10, number))


def renamed(data: bytes, new: bytes) -> bytes:
    """Rename the member whose name is ``x`` repeated to the length of ``new``."""
    assert b"x" * len(new) in data
    return data.replace(b"x" * len(new), new)


def overlapping(content: bytes) -> bytes:
    """Return a ZIP with forty entries in the list of contents that share one deflated member of 2 MB."""
    data = zipped(("0/result.json", content + b" " * (2 << 20)))
    start = data.index(b"PK\x01\x02")
    entry, end = data[start:-22], data[-22:]
    entries = b"".join(entry for _ in range(40))
    counts = struct.pack("<HHII", 40, 40, len(entries), start)
    return data[:start] + entries + end[:8] + counts + end[20:]


def long_list() -> bytes:
    """Return the end of a ZIP that states a list of contents of 400 MB; the test makes a sparse file."""
    return b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 9, 9, 400 << 20, 0, 0)


# --- tar ---


def tarred(*members: Files | tarfile.TarInfo, format: int = tarfile.PAX_FORMAT) -> bytes:  # noqa: A002
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=format, encoding="utf-8", errors="surrogateescape"
    ) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(str(member[0]))
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def tar_special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def tar_header(name: str, kind: bytes, size: int) -> bytes:
    """Return only the header of a member of ``size`` bytes."""
    info = tar_special(name, kind)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def sparse(name: str, size: int) -> bytes:
    """Return a tar with one sparse file: a block that begins like a page, and a hole."""
    header = bytearray(tar_header(name, tarfile.GNUTYPE_SPARSE, 512))
    number = b"\x80" + size.to_bytes(11, "big")
    header[386:434] = bytes(12) + b"\x80" + (512).to_bytes(11, "big") + number + bytes(12)
    header[483:495] = number
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + b"<html>".ljust(512) + bytes(1024)


# --- 7z ---


def sevenzipped(*members: Files, filters: Sequence[dict[str, Any]] | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with py7zr.SevenZipFile(buffer, "w", filters=filters, **options) as archive:
        for name, content in members:
            archive.writestr(content, str(name))
    return buffer.getvalue()


def zstd_frames(data: bytes) -> bytes:
    """Return zstd as 7-Zip's derivatives write it: an empty frame, then each frame behind one to skip."""
    frames = [b"", data[:99], data[99:]]
    return b"".join(zstd.compress(frame) + b"\x50\x2a\x4d\x18\2\0\0\0ab" for frame in frames)


def framed_sevenzip(name: str, content: bytes) -> bytes:
    """Return a 7z archive of one member in several frames of zstd."""
    packed = zstd_frames(content)
    buffer = io.BytesIO()
    with py7zr.SevenZipFile(buffer, "w", filters=[{"id": py7zr.FILTER_COPY}]) as archive:
        archive.encoded_header_mode = False
        archive.writestr(packed, name)
    before, after = ((0x8000 | len(one)).to_bytes(2, "big") for one in (packed, content))
    method = b"\x24\4\xf7\x11\1\5\1\5\3\0\0"
    data = patched_7z(buffer.getvalue(), b"\1\1\0\x0c" + before, b"\1" + method + b"\x0c" + after)
    checksums = [struct.pack("<L", zlib.crc32(one)) for one in (packed, content)]
    return patched_7z(data, *checksums)


def patched_7z(data: bytes, old: bytes, new: bytes) -> bytes:
    """Replace bytes in the uncompressed list of contents of a 7z archive and correct its checksums."""
    begin = 32 + struct.unpack("<Q", data[12:20])[0]
    assert data.count(old, begin) == 1
    contents = data[begin:].replace(old, new)
    start = data[12:20] + struct.pack("<QL", len(contents), zlib.crc32(contents))
    return data[:8] + struct.pack("<L", zlib.crc32(start)) + start + data[32:begin] + contents


def plain_sevenzip(*members: Files) -> bytes:
    """Return a 7z archive in plain LZMA2 whose list of contents is not compressed."""
    buffer = io.BytesIO()
    with py7zr.SevenZipFile(buffer, "w", filters=[{"id": py7zr.FILTER_LZMA2, "preset": 1}]) as archive:
        archive.encoded_header_mode = False
        for name, content in members:
            archive.writestr(content, str(name))
    return buffer.getvalue()


# --- RAR 5 ---


def _number(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def _block(kind: int, flags: int, rest: bytes) -> bytes:
    body = _number(kind) + _number(flags) + rest
    header = _number(len(body)) + body
    return struct.pack("<L", zlib.crc32(header)) + header


def rar(*members: Files, method: int = 0, link: tuple[str, str] | None = None) -> bytes:
    """Return a RAR archive of stored members; with another ``method`` they only pretend to be compressed.

    ``link`` is the name and the target of a symbolic link.
    """
    blocks = [b"Rar!\x1a\x07\x01\0", _block(1, 0, b"\0")]
    for name, content in members:
        raw = str(name).encode()
        fields = [len(content), 4, len(content), 0o644]
        more = [method << 7, 1, len(raw)]
        checksum = struct.pack("<L", zlib.crc32(content))
        blocks += [
            _block(2, 2, b"".join(map(_number, fields)) + checksum + b"".join(map(_number, more)) + raw),
            content,
        ]
    if link:
        raw, target = (part.encode() for part in link)
        record = b"".join(map(_number, [5, 1, 0, len(target)])) + target
        extra = _number(len(record)) + record
        fields = [len(extra), 0, len(target), 0o120777, 0, 1, len(raw)]
        blocks.append(_block(2, 1, b"".join(map(_number, fields)) + raw + extra))
    return b"".join([*blocks, _block(5, 0, b"\0")])


def rar3(*members: Files, comment: bytes = b"") -> bytes:
    """Return a RAR archive of before RAR 5; a ``comment`` pretends to be compressed."""
    blocks = [b"Rar!\x1a\x07\0", _block3(0x73, 0, bytes(6))]
    blocks += [_file3(0x7A, b"CMT", comment, 0x33)] if comment else []
    blocks += [_file3(0x74, str(name).encode(), content, 0x30) for name, content in members]
    return b"".join([*blocks, _block3(0x7B, 0x4000, b"")])


def _file3(kind: int, name: bytes, content: bytes, method: int) -> bytes:
    size, checksum = len(content), zlib.crc32(content)
    fields = struct.pack("<LLBLLBBHL", size, size, 3, checksum, 0, 29, method, len(name), 0o100644)
    return _block3(kind, 0x8000, fields + name) + content


def _block3(kind: int, flags: int, rest: bytes) -> bytes:
    header = struct.pack("<BHH", kind, flags, 7 + len(rest)) + rest
    return struct.pack("<H", zlib.crc32(header) & 0xFFFF) + header


def encrypted_rar() -> bytes:
    """Return a RAR archive whose list of contents is encrypted."""
    return b"Rar!\x1a\x07\x01\0" + _block(4, 0, b"\0\0\x0f" + bytes(16)) + bytes(64)
