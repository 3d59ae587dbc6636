"""The lists of contents of a ZIP archive, read as tolerantly as unzip, 7-Zip and file managers read them.

:mod:`zipfile` refuses a whole archive for one odd entry (an extra field that is cut, a name that is not
UTF-8) and cannot find entries beyond 4 GiB in archives without ZIP64, which macOS writes: it stores sizes and
offsets modulo 2**32. libarchive refuses cut extra fields too; stream-unzip has to unpack all media to reach
an export. APPNOTE.TXT, sections 4.3 to 4.5, describes the structures.
"""

from __future__ import annotations

import io
import stat
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from flows.errors import BadInput
from flows.stages.extract.archives.base import BEHIND, CHUNK, PART_OF_SEVERAL
from flows.stages.extract.archives.names import decode_name
from flows.stages.extract.archives.streams import PADDING
from flows.stages.extract.limits import TooLarge, too_many

LOCAL, ENTRY, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
#: Sizes and offsets of 4 bytes are modulo this number in archives that should be ZIP64, but are not.
WRAP = 1 << 32
_SPANNED = (b"PK\x07\x08", b"PK00")
_END64, _LOCATOR = b"PK\x06\x06", b"PK\x06\x07"
_END_FORM, _END64_FORM, _ENTRY_FORM = "<4s4H2LH", "<4sQ2H2L4Q", "<4s6H3L5H2L"
_END_SIZE, _LOCATOR_SIZE, _ENTRY_SIZE = 22, 20, 46
#: Bytes before the end of the file that are searched for the record of the end; a comment has up to 64 KiB.
_TAIL = 1 << 20
_MAX_LIST = 64 << 20
_FULL = WRAP - 1  # the value is in the field of ZIP64
_ZIP64_FIELD, _UNICODE_NAME_FIELD = 1, 0x7075
_UTF8_NAME, _DOS_FOLDER = 0x800, 0x10
#: Of the list itself, behind its entries.
_SIGNATURE = b"PK\x05\x05"
#: Archives that are joined in one file, at most.
_MAX_JOINED = 100

_DAMAGED_LIST = "its list of contents is damaged, some of its files may be missing: copy it again"
CUT_OFF = "the ZIP archive is cut off, its list of contents is missing: copy it again in full"
BEGINNING_MISSING = (
    "its beginning is missing: copy it again in full, or if it is one part of a split archive, join the parts"
)


class Entry(NamedTuple):
    """One entry of a list of contents; sizes in bytes, modulo :data:`WRAP` unless ``zip64``.

    Its header is ``offset`` bytes (modulo WRAP as well) behind ``base`` and ends before ``limit``; both are
    positions in the file.
    """

    name: str
    raw_name: bytes
    flags: int
    method: int
    checksum: int
    packed: int
    size: int
    mode: int
    is_folder: bool
    offset: int
    zip64: bool
    base: int
    limit: int


class NoList(BadInput):
    """The archive's list of contents is missing: it is cut off."""


class Listed(NamedTuple):
    """All entries of a file, and for the operator what could not be read (None if everything was)."""

    entries: list[Entry]
    problem: str | None


class _End(NamedTuple):
    """The list of one archive: ``size`` bytes at ``start``; ``stated`` is where the archive says it starts.

    ``behind`` is the position behind the archive.
    """

    start: int
    size: int
    stated: int
    zip64: bool
    behind: int


def has_list(file: BinaryIO) -> bool:
    """Return whether ``file`` ends with a ZIP archive's list of contents."""
    try:
        return _find_end(file, file.seek(0, io.SEEK_END)) is not None
    except BadInput:
        return False


def read_lists(file: BinaryIO, max_entries: int) -> Listed:
    """Return the entries of all archives in ``file``: one, or several that were joined.

    Raises BadInput if no list of contents is found, TooLarge if there are over ``max_entries`` entries.
    """
    file.seek(0)
    head, size = file.read(4), file.seek(0, io.SEEK_END)
    limit, problems = size, list[str]()
    joined: list[list[Entry]] = []
    while (end := _find_end(file, limit)) and len(joined) < _MAX_JOINED:
        if _is_more(file, end.behind, limit):
            problems.append(BEHIND)
        entries, base, problem = _read_list(file, end, max_entries - sum(map(len, joined)))
        problems += [problem] if problem else []
        joined.append(entries)
        limit = base
        if base <= 0 or head != LOCAL:  # data before an archive belongs to a self-extracting program
            break
    else:
        if not joined:
            raise BadInput(PART_OF_SEVERAL) if head in _SPANNED else NoList(CUT_OFF)
        problems.append(f"its first {limit:,} bytes were not read: {CUT_OFF}")
    entries = [entry for part in reversed(joined) for entry in part]
    return Listed(entries, "; ".join(dict.fromkeys(problems)) or None)


def _is_more(file: BinaryIO, start: int, end: int) -> bool:
    """Return whether other bytes than padding are between two positions."""
    file.seek(start)
    while start < end and (data := file.read(min(CHUNK, end - start))):
        if data.strip(PADDING):
            return True
        start += len(data)
    return False


# --- the end of an archive ---


def _find_end(file: BinaryIO, limit: int) -> _End | None:
    """Return the last archive that ends before ``limit``. Raises BadInput if it ends in another file."""
    limit = _without_zeros(file, limit)
    first = max(0, limit - _TAIL)
    file.seek(first)
    tail = file.read(limit - first)
    at, elsewhere = len(tail), False
    while (at := tail.rfind(END, 0, at)) >= 0:
        record = tail[at : at + _END_SIZE].ljust(_END_SIZE, b"\0")
        _, disk, _, _, _, size, stated, comment = struct.unpack(_END_FORM, record)
        elsewhere |= disk not in {0, 0xFFFF}  # 0xffff: it is in the record of ZIP64
        if disk in {0, 0xFFFF} and (end := _end_at(file, first + at, size, stated, comment)):
            return end
    if elsewhere:
        raise BadInput(PART_OF_SEVERAL)
    return None


def _without_zeros(file: BinaryIO, limit: int) -> int:
    """Return ``limit`` less the zeros before it: after a power failure they replace what was not written."""
    while limit > 0:
        start = max(0, limit - CHUNK)
        file.seek(start)
        if data := file.read(limit - start).rstrip(b"\0"):
            return min(limit, start + len(data) + _END_SIZE)
        limit = start
    return 0


def _end_at(file: BinaryIO, at: int, size: int, stated: int, comment: int) -> _End | None:
    """Return the archive whose record of the end is at ``at``; None if these bytes only look like one."""
    behind = at + _END_SIZE + comment
    found = _zip64_end(file, at)
    if found:
        at, size, stated = found
    if size > _MAX_LIST and size <= at:
        raise BadInput(
            f"the archive's list of contents is over {_MAX_LIST >> 20} MB: pack fewer files together"
        )
    for start in (at - size, stated):
        if start >= 0 and start + size <= at and (size == 0 or _magic(file, start) == ENTRY):
            return _End(start, size, stated, bool(found), behind)
    return None


def _zip64_end(file: BinaryIO, at: int) -> tuple[int, int, int] | None:
    """Return the position of the ZIP64 record before ``at``, and the list's size and stated position."""
    if at < _LOCATOR_SIZE or _magic(file, at - _LOCATOR_SIZE) != _LOCATOR:
        return None
    file.seek(at - _LOCATOR_SIZE + 8)
    (stated_record,) = struct.unpack("<Q", file.read(8))
    form = struct.calcsize(_END64_FORM)
    for record in (at - _LOCATOR_SIZE - form, stated_record):
        if 0 <= record <= at - _LOCATOR_SIZE - form and _magic(file, record) == _END64:
            file.seek(record)
            *_, size, stated = struct.unpack(_END64_FORM, file.read(form))
            return record, size, stated
    return None


def _magic(file: BinaryIO, at: int) -> bytes:
    file.seek(at)
    return file.read(4)


# --- the entries ---


def _read_list(file: BinaryIO, end: _End, max_entries: int) -> tuple[list[Entry], int, str | None]:
    """Return the entries, where the archive begins in ``file``, and what could not be read of the list."""
    file.seek(end.start)
    data = file.read(end.size)
    if data.count(ENTRY) > max_entries:
        raise TooLarge(too_many(max_entries))
    base = end.start - end.stated
    if base > 0 and not end.zip64:
        base %= WRAP
    entries, problem = _entries(data, base, end.start)
    if base > 0 and entries:
        first = base + min(entry.offset for entry in entries)
        if _magic(file, first) != LOCAL:  # its offsets count from the beginning of the file
            base, entries = 0, [entry._replace(base=0) for entry in entries]
    return entries, base, BEGINNING_MISSING if base < 0 else problem


def _entries(data: bytes, base: int, limit: int) -> tuple[list[Entry], str | None]:
    """Return the entries of a list; behind a damaged one, continue at the next that is recognised."""
    entries: list[Entry] = []
    at, previous, problem = 0, -4, None
    while at != len(data):
        if not data.startswith(ENTRY, at):
            end, at = at, data.find(ENTRY, previous + 4)
            if at < 0 and (
                data.startswith(_SIGNATURE, end) or (not data[end:].strip(PADDING) and end < len(data))
            ):
                break
            problem = _DAMAGED_LIST
        if at < 0 or at + _ENTRY_SIZE > len(data):
            return entries, _DAMAGED_LIST
        entries.append(_entry(data, at, base, limit))
        previous, at = at, at + _ENTRY_SIZE + sum(struct.unpack_from("<3H", data, at + 28))
    return entries, problem


def _entry(data: bytes, at: int, base: int, limit: int) -> Entry:
    """Return the entry at ``at`` of a list."""
    fields = struct.unpack_from(_ENTRY_FORM, data, at)
    flags, method, checksum, *sizes, name_length, extra_length = fields[3:5] + fields[7:12]
    attributes, offset = fields[-2:]
    name_end = at + _ENTRY_SIZE + name_length
    raw_name, extra = data[name_end - name_length : name_end], data[name_end : name_end + extra_length]
    (packed, size), zip64 = sizes, False
    if _FULL in {size, packed, offset} and extra:
        zip64, size, packed, offset = with_zip64(extra, size, packed, offset)
    name, mode = name_of(raw_name, flags, extra), attributes >> 16
    is_folder = size == 0 and (
        name.endswith(("/", "\\")) or stat.S_ISDIR(mode) or bool(attributes & _DOS_FOLDER)
    )
    return Entry(
        name, raw_name, flags, method, checksum, packed, size, mode, is_folder, offset, zip64, base, limit
    )  # fmt: skip


def with_zip64(extra: bytes, *values: int) -> tuple[bool, int, int, int]:
    """Return whether there is a field of ZIP64, and ``values`` with its numbers in place of full ones."""
    field = next((content for kind, content in _fields(extra) if kind == _ZIP64_FIELD), b"")
    numbers = iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
    size, packed, offset = (next(numbers, value) if value == _FULL else value for value in values)
    return bool(field), size, packed, offset


def _fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the extra fields with their numbers. The last one may be cut; what follows it is ignored."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        yield kind, extra[at + 4 : at + 4 + size]
        at += 4 + size


def name_of(raw: bytes, flags: int, extra: bytes) -> str:
    """Return the name: in UTF-8 if the entry says so, as field of its own or by its flag; else guessed."""
    raw, _, _ = raw.partition(b"\0")
    if raw.isascii():
        return raw.decode()
    for kind, content in _fields(extra):
        if kind == _UNICODE_NAME_FIELD and content[1:5] == struct.pack("<L", zlib.crc32(raw)):
            raw, flags = content[5:], _UTF8_NAME
    try:
        return raw.decode() if flags & _UTF8_NAME else decode_name(raw)
    except UnicodeDecodeError:
        return decode_name(raw)
