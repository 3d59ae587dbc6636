"""One interface to archives of all formats, which are detected by their content, never by their names.

A reader lists the members of an archive and streams the requested ones. No statement of an archive about
itself is trusted: unpacked bytes are counted while reading (:mod:`flows.stages.extract.limits`), names are
made safe when the files are written (:mod:`flows.stages.extract.entry`). Every error of a library on invalid
bytes is raised as :class:`~flows.errors.BadInput`; only errors that the archive does not cause (a full or
failing disk) are raised as OSError.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

from flows.errors import BadInput
from flows.stages.extract.archives.base import HEAD, PART_OF_SEVERAL, Archive, Member
from flows.stages.extract.archives.rars import Rar, open_rar
from flows.stages.extract.archives.sevenzip import open_sevenzip
from flows.stages.extract.archives.single import Bare, Compressed
from flows.stages.extract.archives.streams import head_of, unpacked
from flows.stages.extract.archives.tars import Tar, is_tar
from flows.stages.extract.archives.texts import start_in_utf8
from flows.stages.extract.archives.zip_list import has_list
from flows.stages.extract.archives.zips import open_zip
from flows.stages.extract.limits import Budget

__all__ = [
    "ARCHIVES",
    "HEAD",
    "PART_OF_SEVERAL",
    "Archive",
    "Bare",
    "Compressed",
    "Member",
    "Rar",
    "format_of",
    "open_archive",
]

_MAGIC = {
    "zip": rb"PK(\x03\x04|\x05\x06|\x07\x08|00PK)",
    "7z": rb"7z\xbc\xaf\x27\x1c",
    "rar": rb"Rar!\x1a\x07[\x00\x01]",
    "gzip": rb"\x1f\x8b\x08",
    "bzip2": rb"BZh[1-9](1AY&SY|\x17rE8P\x90)",
    "xz": rb"\xfd7zXZ\x00",
    "zstd": rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18",
    "lzma": rb"\x5d\0\0.{2}(\xff{8}|.{5}\0{3})",
    "json": rb"(\xef\xbb\xbf)?\s*(\{|\[\s*\{)",
    "html": rb"(\xef\xbb\xbf)?\s*<",
}
#: The results of :func:`format_of` that are archives.
ARCHIVES = _MAGIC.keys() - {"json", "html"} | {"tar"}
_OPENERS: dict[str, Callable[[Path, Budget, bool], AbstractContextManager[Archive]]] = {
    "zip": lambda path, budget, nested: open_zip(path, budget, nested=nested),
    "7z": lambda path, budget, _: open_sevenzip(path, budget),
    "rar": lambda path, budget, _: open_rar(path, budget),
}
_TEXTS = ("json", "html")
_NAMES = {"json": "result.json", "html": "messages.html"}
_NOT_READ = "an archive of a format that is not read: unpack it and submit a ZIP of the folder"
_SAVED = (
    "a page that a browser saved as one file of its own format: submit the HTML that Telegram Desktop wrote"
)
_PROGRAM = "a program, not an export: if it is self-extracting, run it and submit a ZIP of the folder"
#: Magic bytes of disk images, which begin with zeros, and their position (from the end if negative).
_FAR_SIGNS = ((0x8001, b"CD001"), (-512, b"koly"))
_UNKNOWN = {
    b"From: <Saved by": _SAVED,  # MHTML
    b'From: "Saved by': _SAVED,
    b"MIME-Version: ": _SAVED,
    b"bplist00": _SAVED,  # Safari
    b"\x04\x22\x4d\x18": _NOT_READ,  # LZ4
    b"LZIP": _NOT_READ,
    b"\x1f\x9d": _NOT_READ,  # compress
    b"MSCF": _NOT_READ,  # Windows' cabinet
    b"\x60\xea": _NOT_READ,  # ARJ
    b"070701": _NOT_READ,  # cpio
    b"070707": _NOT_READ,
    b"xar!": _NOT_READ,
    b"\x89LZO": _NOT_READ,
    b"LRZI": _NOT_READ,
    b"MZ": _PROGRAM,
    b"\x7fELF": _PROGRAM,
    b"\xff\xfe": "text in UTF-16, not an export: submit the export as Telegram Desktop wrote it",
    b"\xfe\xff": "text in UTF-16, not an export: submit the export as Telegram Desktop wrote it",
    b"\0\5\x16\7": "metadata that macOS writes beside a file, not an export: drop it",
    b"\0\0\0\1Bud1": "metadata that macOS writes into folders, not an export: drop it",
    b"\xd0\xcf\x11\xe0": "an Office document or Windows' Thumbs.db, not an export: drop it",
    bytes(64): "its beginning is empty (only zeros), as after a power failure or a full disk: copy it again",
    b"": "neither an archive nor an export: submit an archive of the export's folder, a result.json or"
    " messages.html",
}


def format_of(head: bytes) -> str:
    """Return the format of a file from its first :data:`HEAD` bytes: ``zip``, ``json``, …; empty if unknown.

    A ZIP archive with other data before it is not detected.
    """
    for name, magic in _MAGIC.items():
        if re.match(magic, head, re.DOTALL):
            return name
    if is_tar(head):
        return "tar"
    start = start_in_utf8(head)
    return next((name for name in _TEXTS if re.match(_MAGIC[name], start.lstrip())), "")


@contextmanager
def open_archive(path: Path, budget: Budget, *, nested: bool = False) -> Iterator[Archive]:
    """Open the archive, or the bare JSON or HTML file, at ``path``.

    Unpacked bytes are counted in ``budget``. Of a ``nested`` ZIP without its end nothing is read: it may be a
    part of a split archive. Raises BadInput for any other file, TooLarge past the limits.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
        if len(head) < HEAD and not head.strip():
            raise BadInput("the file is empty: copy it again")
        kind = format_of(head) or ("zip" if has_list(file) else "")
        if kind in _OPENERS:
            with _OPENERS[kind](path, budget, nested) as archive:
                yield archive
        elif kind in {"json", "html"}:
            yield Bare(path, _NAMES[kind])
        elif kind:
            yield _in_stream(file, kind, budget)
        elif head[2:5] == b"-lh" or any(_holds(file, *sign) for sign in _FAR_SIGNS):
            raise BadInput(_NOT_READ)
        else:
            raise BadInput(next(reason for magic, reason in _UNKNOWN.items() if head.startswith(magic)))


def _holds(file: BinaryIO, at: int, sign: bytes) -> bool:
    """Return whether ``sign`` is at a position of the file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(min(at if at >= 0 else max(size + at, 0), size))
    return file.read(len(sign)) == sign


def _in_stream(file: BinaryIO, kind: str, budget: Budget) -> Archive:
    """Return the tar or the single file in ``file``, which is compressed unless its ``kind`` is tar."""

    def whole() -> BinaryIO:
        file.seek(0)
        return file

    if kind == "tar":
        return Tar(whole, budget)
    packed = format_of(head_of(unpacked(whole(), kind), HEAD))
    if packed == "tar":
        return Tar(lambda: unpacked(whole(), kind), budget)
    return Compressed(lambda: unpacked(whole(), kind), _NAMES.get(packed, "contents"), budget)
