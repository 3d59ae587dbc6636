"""Entries of a ZIP archive without its list of contents, as after a download that was interrupted.

They are read from the headers before their contents, as 7-Zip and ``zip -FF`` do. Behind one whose length
cannot be found, nothing is read.
"""

from __future__ import annotations

import mmap
import struct

from flows.stages.extract.archives.zip_list import LOCAL, Entry, name_of, with_zip64
from flows.stages.extract.limits import TooLarge, too_many

_FORM, _SIZE = "<4s5H3L2H", 30
_DESCRIBED = 0x8
_DESCRIPTOR = b"PK\x07\x08"


def entries_by_headers(data: mmap.mmap, max_entries: int) -> list[Entry]:
    """Return the entries of the archive that begins at the start of ``data``; the last one may be cut off.

    Raises TooLarge if there are over ``max_entries``.
    """
    found: list[Entry] = []
    at = 0
    while data[at : at + 4] == LOCAL and at + _SIZE <= len(data):
        if len(found) >= max_entries:
            raise TooLarge(too_many(max_entries))
        entry, start = _entry(data, at)
        found.append(entry)
        at = start + entry.packed
        if entry.flags & _DESCRIBED:
            at += 4 * (6 if entry.zip64 else 4)
    return found


def _entry(data: mmap.mmap, at: int) -> tuple[Entry, int]:
    """Return the entry at ``at``, and where its packed bytes begin."""
    _, _, flags, method, _, _, checksum, packed, size, name_length, extra_length = struct.unpack(
        _FORM, data[at : at + _SIZE]
    )
    name_end = at + _SIZE + name_length
    raw_name, extra = data[at + _SIZE : name_end], data[name_end : name_end + extra_length]
    start = name_end + extra_length
    zip64, size, packed, _ = with_zip64(extra, size, packed, 0)
    if flags & _DESCRIBED:
        checksum, packed, size = _described(data, start, wide=zip64)
    name = name_of(raw_name, flags, extra)
    is_folder = size == 0 and name.endswith("/")
    return Entry(
        name, raw_name, flags, method, checksum, packed, size, 0, is_folder, at, zip64, 0, len(data)
    ), start  # fmt: skip


def _described(data: mmap.mmap, start: int, *, wide: bool) -> tuple[int, int, int]:
    """Return the checksum and sizes that follow an entry's packed bytes, where the size fits the place."""
    form = "<L2Q" if wide else "<3L"
    at = start - 1
    while (at := data.find(_DESCRIPTOR, at + 1)) >= 0:
        fields = data[at + 4 : at + 4 + struct.calcsize(form)].ljust(struct.calcsize(form), b"\0")
        checksum, packed, size = struct.unpack(form, fields)
        if packed == at - start:
            return checksum, packed, size
    return 0, len(data) - start + 1, len(data)  # it is cut off
