"""Unpack compressed streams (gzip, bzip2, xz, zstd) in chunks of bounded size."""

from __future__ import annotations

import bz2
import io
import os
from collections.abc import Callable
from typing import BinaryIO

from flows.errors import BadInput
from flows.stages.extract.archives.base import CHUNK, EndsEarly, Readable, reading
from flows.stages.extract.archives.decompressors import Decompressor, Inflater, new_lzma, new_xz, new_zstd
from flows.stages.extract.limits import Meter

#: Compressed bytes read at first and then at once; often only the beginning of a member is needed.
_FIRST, _STEP = 4 * 1024, 64 * 1024
#: Padding that transfers and tapes append: NUL, the end-of-file mark of DOS, white space.
PADDING = b"\0\x1a\r\n\t "


class Unpacked:
    """The unpacked bytes of ``source``, which holds one compressed stream or, with ``magic``, several.

    ``size`` is the number of unpacked bytes in formats that do not mark their end. ``magic`` are the first
    bytes of a further stream. After ``read`` has returned no bytes, ``behind`` says whether other bytes
    than padding follow the last stream. ``read`` raises EOFError if the source ends too early.
    """

    def __init__(
        self,
        source: Readable,
        new: Callable[[], Decompressor],
        size: int | None = None,
        magic: tuple[bytes, ...] = (),
    ) -> None:
        """Start at the beginning of ``source``; ``new`` returns a decompressor for each stream."""
        self._source, self._new, self._size, self._magic = source, new, size, magic
        self._decompressor = new()
        self._unused = b""  # read from the source, but not passed to a decompressor yet
        self._at = 0
        self._step = _FIRST
        self.behind = False

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, none at the end."""
        if self._size is not None:
            size = min(size, self._size - self._at)
        while size and not (self._decompressor.eof and not self._next()):
            data = b""
            if self._decompressor.needs_input and not (data := self._input()):
                raise EOFError("it ends too early")
            if found := self._decompressor.decompress(data, size):
                self._at += len(found)
                return found
        return b""

    def _input(self) -> bytes:
        if not (data := self._unused):
            data, self._step = self._source.read(self._step), _STEP
        self._unused = b""
        return data

    def _next(self) -> bool:
        """Start the following stream, after padding; return False if there is none."""
        if not self._magic or self.behind:
            return False
        self._unused = (self._decompressor.unused_data or self._unused).lstrip(b"\0")
        while len(self._unused) < len(self._magic[0]) and (more := self._source.read(_STEP)):
            self._unused = (self._unused + more).lstrip(b"\0")
        if self._unused.startswith(self._magic):
            self._decompressor = self._new()
            return True
        rest = self._unused.strip(PADDING)
        while not rest and (more := self._source.read(_STEP)):
            rest = more.strip(PADDING)
        self._unused, self.behind = b"", bool(rest)
        return False


class Slice:
    """The bytes of a file from ``start`` to ``end``, whatever else is read from it between two reads."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        """Begin at ``start``."""
        self._file, self._at, self._end = file, start, end

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, none at the end."""
        self._file.seek(self._at)
        data = self._file.read(max(0, min(size, self._end - self._at)))
        self._at += len(data)
        return data


class Forward:
    """A stream that is read and seeked forwards only, with the methods that :mod:`tarfile` needs.

    Large reads raise BadInput: they come from headers with false lengths. ``last`` has the bytes read last.
    If the stream is cut off, ``read`` returns the bytes before that, and raises EOFError afterwards.
    """

    def __init__(self, stream: Readable, meter: Meter) -> None:
        """Start at the beginning of ``stream``."""
        self._stream, self._meter = stream, meter
        self._at = 0
        self._ahead = b""
        self.last = b""

    def read(self, size: int, /) -> bytes:
        """Return ``size`` bytes, fewer only at the end."""
        if not 0 <= size <= CHUNK:
            raise BadInput("it is damaged (a header too long): copy it again")
        parts: list[bytes] = []
        while size and (part := self._some(size, after=bool(parts))):
            parts.append(part)
            size -= len(part)
            self._at += len(part)
            self._meter.at(self._at)
        self.last = b"".join(parts)
        return self.last

    def _some(self, size: int, *, after: bool) -> bytes:
        """Return some bytes; none if the stream is cut off ``after`` others, which are returned first."""
        if not self._ahead:
            try:
                return self._stream.read(size)
            except EOFError:
                if after:
                    return b""
                raise
        part, self._ahead = self._ahead[:size], self._ahead[size:]
        return part

    def unread(self, data: bytes) -> None:
        """Return to the position before ``data``, the end of what was read last."""
        self._ahead = data + self._ahead
        self._at -= len(data)

    def seek(self, position: int, whence: int = os.SEEK_SET, /) -> int:
        """Skip to ``position``, or to the end of the stream if that comes first."""
        if whence != os.SEEK_SET or position < self._at:
            raise OSError("it is only read forwards")
        if isinstance(self._stream, io.BufferedReader):  # a file, not a compressed stream
            self._at, self._ahead = self._stream.seek(position), b""
        while self._at < position and self.read(min(position - self._at, CHUNK)):
            pass
        return self._at

    def tell(self) -> int:
        """Return the position in the stream."""
        return self._at


def is_behind(file: BinaryIO, end: int) -> bool:
    """Return whether other bytes than padding are in ``file`` behind its ``end``."""
    if end >= file.seek(0, io.SEEK_END):
        return False
    file.seek(end)
    return any(data.strip(PADDING) for data in iter(lambda: file.read(CHUNK), b""))


def unpacked(file: BinaryIO, kind: str) -> Unpacked:
    """Return the unpacked bytes of ``file``, which has the format ``kind`` and is at its start."""
    new, magic = _STREAMS[kind]
    return Unpacked(file, new, magic=magic)


#: The first bytes of frames of zstd, also of those to skip. 7-Zip's derivatives write many in one stream.
ZSTD_FRAMES = (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + n]) + b"\x2a\x4d\x18" for n in range(16)))
#: Per format a function that returns a decompressor, and the first bytes of streams.
_STREAMS: dict[str, tuple[Callable[[], Decompressor], tuple[bytes, ...]]] = {
    "gzip": (lambda: Inflater(31), (b"\x1f\x8b\x08",)),
    "bzip2": (bz2.BZ2Decompressor, (b"BZh",)),
    "xz": (new_xz, (b"\xfd7zXZ\0",)),
    "lzma": (new_lzma, ()),
    "zstd": (new_zstd, ZSTD_FRAMES),
}


def head_of(stream: Readable, size: int) -> bytes:
    """Return the first ``size`` bytes of ``stream``, fewer if it is shorter or cut off behind some."""
    head = b""
    try:
        with reading():
            while len(head) < size and (part := stream.read(size - len(head))):
                head += part
    except EndsEarly:
        if not head:
            raise
    return head
