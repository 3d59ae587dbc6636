"""Decompressors that return at most the requested bytes, in the interface of the standard library."""

from __future__ import annotations

import lzma
import zlib
from typing import Protocol

from flows.errors import BadInput
from flows.stages.extract.archives.base import DICTIONARY


class Decompressor(Protocol):
    """The interface of the decompressors of the standard library that return at most the requested bytes."""

    @property
    def eof(self) -> bool:
        """Whether the end of the compressed stream was reached."""

    @property
    def needs_input(self) -> bool:
        """Whether more input is needed for more output."""

    @property
    def unused_data(self) -> bytes:
        """Bytes of the input behind the end of the stream."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Return up to ``max_length`` unpacked bytes."""


class Inflater:
    """A decompressor of deflate; ``window`` is ``wbits`` of :mod:`zlib`: 31 for gzip, -15 for ZIP."""

    def __init__(self, window: int) -> None:
        """Start at the beginning of a stream."""
        self._inflate = zlib.decompressobj(window)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        """Whether the end of the stream was reached."""
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        """Bytes of the input behind the end of the stream."""
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Return up to ``max_length`` unpacked bytes."""
        rest = self._inflate.unconsumed_tail
        found = self._inflate.decompress(rest + data if rest else data, max_length)
        self.needs_input = not self._inflate.unconsumed_tail and len(found) < max_length
        return found


class Inflater64:
    """A decompressor of deflate64, which Windows' Explorer uses for files of over 2 GB."""

    #: Bytes passed to the library at once: its output has no limit, and of these it is 16 MB at most.
    _STEP = 64
    unused_data = b""

    def __init__(self) -> None:
        """Start at the beginning of a stream."""
        import inflate64

        self._inflate = inflate64.Inflater()
        self._input = self._output = b""

    @property
    def eof(self) -> bool:
        """Whether the end of the stream was reached, and all of it returned."""
        return bool(self._inflate.eof) and not self._output

    @property
    def needs_input(self) -> bool:
        """Whether more input is needed for more output."""
        return not self._input and not self._output

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Return up to ``max_length`` unpacked bytes."""
        self._input += data
        parts, size, at = [self._output], len(self._output), 0
        while at < len(self._input) and size < max_length and not self._inflate.eof:
            parts.append(self._inflate.inflate(self._input[at : at + self._STEP]))
            size, at = size + len(parts[-1]), at + self._STEP
        self._input = b"" if self._inflate.eof else self._input[at:]
        found = b"".join(parts)
        self._output = found[max_length:]
        return found[:max_length]


def new_lzma() -> Decompressor:
    """Return a decompressor of the format before xz."""
    return lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=DICTIONARY + (64 << 20))


def new_xz() -> Decompressor:
    """Return a decompressor of xz."""
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=DICTIONARY + (64 << 20))


def new_zstd() -> Decompressor:
    """Return a decompressor of one frame of zstd."""
    from backports.zstd import DecompressionParameter, ZstdDecompressor

    return ZstdDecompressor(options={DecompressionParameter.window_log_max: DICTIONARY.bit_length() - 1})


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
