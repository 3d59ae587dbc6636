"""Unpack compressed streams (gzip, bzip2, xz, zstd) in chunks of bounded size."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
from collections.abc import Callable
from typing import BinaryIO, cast

from flows.errors import BadInput
from flows.stages.extract.archives.base import CHUNK, DICTIONARY, Readable, reading
from flows.stages.extract.limits import Meter

#: Compressed bytes read at once; decompressors buffer the bytes that exceed the requested size.
_STEP = 64 * 1024


#: Decompressors that return at most the requested number of bytes.
Decompressor = bz2.BZ2Decompressor | lzma.LZMADecompressor


class Unpacked:
    """The unpacked bytes of ``source``, which holds one or more concatenated compressed streams.

    ``size`` is the number of unpacked bytes in formats that do not mark their end; with it, only one stream
    is read. ``read`` raises EOFError if the source ends too early.
    """

    def __init__(self, source: Readable, new: Callable[[], Decompressor], size: int | None = None) -> None:
        """Start at the beginning of ``source``; ``new`` returns a decompressor for each stream."""
        self._source, self._new, self._size = source, new, size
        self._decompressor = new()
        self._unused = b""  # read from the source, but not passed to a decompressor yet
        self._at = 0

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
        data, self._unused = self._unused or self._source.read(_STEP), b""
        return data

    def _next(self) -> bool:
        """Start the following stream, after padding; return False if there is none."""
        if self._size is not None:
            return False
        self._unused = self._decompressor.unused_data.lstrip(b"\0")
        while not self._unused and (more := self._source.read(_STEP)):
            self._unused = more.lstrip(b"\0")
        if self._unused:
            self._decompressor = self._new()
        return bool(self._unused)


class Forward:
    """A stream that is read and seeked forwards only, with the methods that :mod:`tarfile` needs.

    Large reads raise BadInput: they come from headers with false lengths. ``last`` has the bytes read last.
    """

    def __init__(self, stream: Readable, meter: Meter) -> None:
        """Start at the beginning of ``stream``."""
        self._stream, self._meter = stream, meter
        self._at = 0
        self.last = b""

    def read(self, size: int, /) -> bytes:
        """Return ``size`` bytes, fewer only at the end."""
        if not 0 <= size <= CHUNK:
            raise BadInput("it is damaged (a header too long): copy it again")
        parts: list[bytes] = []
        while size and (part := self._stream.read(size)):
            parts.append(part)
            size -= len(part)
            self._at += len(part)
            self._meter.at(self._at)
        self.last = b"".join(parts)
        return self.last

    def seek(self, position: int, whence: int = os.SEEK_SET, /) -> int:
        """Skip to ``position``, or to the end of the stream if that comes first."""
        if whence != os.SEEK_SET or position < self._at:
            raise OSError("it is only read forwards")
        if isinstance(self._stream, io.BufferedReader):  # a file, not a compressed stream
            self._at = self._stream.seek(position)
        while self._at < position and self.read(min(position - self._at, CHUNK)):
            pass
        return self._at

    def tell(self) -> int:
        """Return the position in the stream."""
        return self._at


def unpacked(file: BinaryIO, kind: str) -> Readable:
    """Return the unpacked bytes of ``file``, which has the format ``kind`` and is at its start."""
    if kind == "gzip":
        return cast("Readable", gzip.GzipFile(fileobj=file))
    if kind == "zstd":
        return cast("Readable", _zstd(file))
    return Unpacked(file, _xz if kind == "xz" else bz2.BZ2Decompressor)


def _xz() -> Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=DICTIONARY + (64 << 20))


def _zstd(file: BinaryIO) -> io.BufferedIOBase:
    from backports.zstd import DecompressionParameter, ZstdFile

    return ZstdFile(file, options={DecompressionParameter.window_log_max: DICTIONARY.bit_length() - 1})


def head_of(stream: Readable, size: int) -> bytes:
    """Return the first ``size`` bytes of ``stream``, fewer if it is shorter."""
    head = b""
    with reading():
        while len(head) < size and (part := stream.read(size - len(head))):
            head += part
    return head


def raw_lzma(properties: bytes) -> Decompressor:
    """Return a decompressor of LZMA without a header, as in ZIP and 7z.

    ``properties`` are one byte with lc, lp and pb, and four with the size of the dictionary.
    """
    rest, lc = divmod(properties[0], 9)
    pb, lp = divmod(rest, 5)
    dictionary = _bounded(int.from_bytes(properties[1:5], "little"))
    chain = [{"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": dictionary}]
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=chain)


def raw_lzma2(properties: bytes, *, bcj: bool = False) -> Decompressor:
    """Return a decompressor of LZMA2 as in 7z; ``properties`` is one byte with the size of the dictionary.

    ``bcj``: the x86 filter was applied before.
    """
    bits = properties[0]
    dictionary = _bounded((2 | bits & 1) << (bits // 2 + 11))
    chain = [{"id": lzma.FILTER_X86}] if bcj else []
    return lzma.LZMADecompressor(
        lzma.FORMAT_RAW, filters=[*chain, {"id": lzma.FILTER_LZMA2, "dict_size": dictionary}]
    )


def _bounded(dictionary: int) -> int:
    if dictionary > DICTIONARY:
        raise BadInput(
            f"it was packed with a dictionary of over {DICTIONARY >> 20} MB: pack it again as an ordinary ZIP"
        )
    return max(dictionary, 4096)
