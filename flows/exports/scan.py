"""Scan the structure of a JSON file from beginning to end in chunks, with bounded memory.

Telegram Desktop writes JSON with the same indentation throughout, and a string never contains a raw line
break. So the end of a message is found by searching for the bytes between two messages, at the speed of
``bytes.find``; brackets are counted only in files of another layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from flows.errors import BadInput
from flows.exports.block import Block
from flows.exports.damage import (
    CUT_OFF,
    DOCUMENT,
    CutOff,
    Malformed,
    Swallowed,
    broken_message,
    document_behind,
)
from flows.exports.lenient import is_decodable, key_of
from flows.exports.tokens import BETWEEN, BLANK, SCALAR, STRING, TOKEN, loose_end

#: Bytes read at once, and the approximate size of a block of messages.
CHUNK = 1 << 20
#: Bytes that a value (a message, a skipped section) may have; keeps memory bounded.
LONGEST = 64 << 20
#: Broken messages and documents behind which reading goes on, and bytes that may be read in vain for them.
MOST_BROKEN, _MOST_WASTED = 50, 16 << 20


class Scanner:
    """Scans one JSON file. Every method starts at the next token and ends after the last one it consumed.

    All raise :class:`CutOff` if the file ends too early and :class:`Malformed` if it is not JSON.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Read ``file``, opened in binary and at its start."""
        self._file = file
        self._data = b""
        self._at = 0
        self._base = 0  # offset in the file of the first byte of _data
        # White space before the current token and before the last key: together they show the layout.
        self._gap = self._key_gap = b""
        self._gap_at = -1  # offset of the token that _gap precedes
        #: Number of members and elements without the comma that should precede them.
        self.missing_commas = 0
        self._broken, self._wasted, self._gives_up = 0, 0, False
        self.next_document()  # skips a byte order mark, written by text editors

    @property
    def offset(self) -> int:
        """The number of bytes consumed so far."""
        return self._base + self._at

    def next_document(self) -> bytes:
        """Consume what may stand between two JSON documents; return the first byte after it, or b""."""
        while True:
            if match := BETWEEN.match(self._data, self._at):
                self._at = match.end()
            if len(self._data) - self._at >= 3 or not self._fill():  # a byte order mark has three bytes
                return self._data[self._at : self._at + 1]

    def rest(self) -> int:
        """Consume the rest of the file; return the number of its bytes."""
        start, self._at = self.offset, len(self._data)
        while self._fill():
            self._at = len(self._data)
        return self.offset - start

    def mark(self) -> tuple[int, bytes, int]:
        """Return the current position, for :meth:`return_to`."""
        return self.offset, self._key_gap, self.missing_commas

    def return_to(self, mark: tuple[int, bytes, int]) -> None:
        """Return to a mark."""
        offset, self._key_gap, self.missing_commas = mark
        self.return_to_offset(offset)

    def return_to_offset(self, offset: int) -> None:
        """Return to a byte of the file at which a value starts."""
        self._file.seek(offset)
        self._data, self._at, self._base = b"", 0, offset

    def may_resume(self) -> bool:
        """Return whether reading goes on behind what is broken here, and count what was read of it."""
        self._broken, self._wasted = self._broken + 1, self._wasted + len(self._data) - self._at
        self._gives_up = self._broken > MOST_BROKEN or self._wasted > _MOST_WASTED
        return not self._gives_up

    def document_behind(self, offset: int) -> int:
        """Return where the next chat or account begins from ``offset`` on; -1 if none does."""
        return document_behind(self._file, offset)

    def take_missing_commas(self) -> int:
        """Return the number of missing commas, and count from 0 again."""
        commas, self.missing_commas = self.missing_commas, 0
        return commas

    def peek(self) -> bytes:
        """Return the first byte of the next token; empty at the end of the file."""
        while True:
            match = BLANK.match(self._data, self._at)
            end = match.end() if match else self._at
            if end < len(self._data):
                if self._gap_at != (offset := self._base + end):
                    self._gap, self._gap_at = self._data[self._at : end], offset
                self._at = end
                return self._data[end : end + 1]
            if not self._fill():
                return b""

    def members(self, *, inside: bool = False) -> Iterator[str]:
        """Yield the keys of the object that starts here; the caller consumes each value.

        ``inside``: the scanner is within the object already, after a value.
        """
        for _ in self._list(b"{", b"}", inside=inside, comma=not inside):
            if self.peek() != b'"':
                raise self._malformed("a key in quotes")
            gap, key = self._gap, self.value()
            self._take(b":")
            self._key_gap = gap
            yield key_of(key)

    def elements(self) -> Iterator[bytes]:
        """Yield the first bytes of the elements of the array that starts here; the caller consumes each."""
        for _ in self._list(b"[", b"]", inside=False):
            yield self.peek()

    def value(self) -> bytes:
        """Return the next value, raw."""
        if not self.peek():
            raise CutOff(CUT_OFF)
        while (end := self._end()) < 0:
            if not self._fill():
                raise CutOff(CUT_OFF)
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def blocks(self) -> Iterator[Block]:
        """Yield the elements of the array that is the last key's value, in blocks of about CHUNK bytes."""
        outer = self._key_gap
        self._take(b"[")
        first, inner = self.peek(), self._gap
        if first == b"{" and b"\n" in outer and b"\n" in inner and len(inner) > len(outer):
            yield from self._by_separator(b"}," + inner + b"{", outer)
        else:
            yield from self._by_brackets()

    def _by_separator(self, separator: bytes, outer: bytes) -> Iterator[Block]:
        closer = outer + b"]"  # all lines of the elements are indented further
        while True:
            start = self.offset
            # In vain, CPython's rfind() takes a third of the time of find().
            if self._data.rfind(closer, self._at) >= 0:
                close = self._data.find(closer, self._at)
                block = self._data[self._at : close].rstrip(b", \t\r\n")  # the last may have a comma
                if not block.endswith(b"}"):
                    break
                self._at = close + len(closer)
                yield Block(block, separator, start=start, outer=outer)
                return
            cut = self._data.rfind(separator, self._at)
            if cut >= 0:
                block = self._data[self._at : cut + 1]
                self._at = cut + len(separator) - 1
                yield Block(block, separator, start=start, outer=outer)
            if not self._fill():
                break
        yield from self._by_brackets()  # the last messages of a file that is cut off or changes its layout

    def _by_brackets(self) -> Iterator[Block]:
        held: list[bytes] = []
        size, start = 0, self.offset
        try:
            for _ in self._list(b"[", b"]", inside=True):
                held.append(self._element(start))
                size += len(held[-1])
                if size >= CHUNK:
                    yield self._block(held, start)
                    held, size, start = [], 0, self.offset
        except BadInput:  # the elements before it are complete
            if held:
                yield self._block(held, start)
            raise
        if held:
            yield self._block(held, start)

    def _element(self, start: int) -> bytes:
        """Return the next message of the block at ``start``; a broken one reaches up to the one behind it."""
        try:
            found = self.value()
        except (CutOff, Malformed):
            if self._gives_up:
                raise
            return self._odd_element()
        if not found.startswith(b'{"id"') and DOCUMENT.match(found):
            raise Swallowed(start)
        return found

    def _odd_element(self) -> bytes:
        """Return a message with raw line breaks in its strings, or what is broken up to the next message."""
        begin = self.offset
        with suppress(Malformed):  # too long
            while (end := loose_end(self._data, self._at)) < 0 and self._fill():
                pass
            if end >= 0 and is_decodable(found := self._data[self._at : end]):
                self._at = end
                return found
        end = broken_message(self._file, begin) if self.may_resume() else 0
        self.return_to_offset(begin)
        if not end:
            return self.value()  # raises what is wrong with it
        found = self._file.read(end - begin) if end - begin < LONGEST else b"?"
        self.return_to_offset(end)
        return found

    def _block(self, elements: list[bytes], start: int) -> Block:
        commas = self.take_missing_commas()
        return Block(b",".join(elements), elements=tuple(elements), start=start, missing_commas=commas)

    def _list(self, opener: bytes, closer: bytes, *, inside: bool, comma: bool = True) -> Iterator[None]:
        """Yield before each item of an object or array; consume its brackets and commas.

        ``inside``: its opening bracket is consumed already. ``comma``: an item may follow, as after a comma.
        """
        if not inside:
            self._take(opener)
        while (byte := self.peek()) != closer:
            if not byte:
                raise CutOff(CUT_OFF)
            if byte == b",":
                if comma:
                    raise self._malformed("a value")
                self._at += 1
                comma = True
                continue
            self.missing_commas += not comma
            comma = False
            yield
        self._take(closer)

    def _take(self, byte: bytes) -> None:
        found = self.peek()
        if not found:
            raise CutOff(CUT_OFF)
        if found != byte:
            raise self._malformed(byte.decode())
        self._at += 1

    def _end(self) -> int:
        """Return where the value that starts here ends; -1 if its end has not been read yet."""
        data, start = self._data, self._at
        if data[start] in b"{[":
            return self._end_of_container()
        pattern = STRING if data[start] == 0x22 else SCALAR
        if match := pattern.match(data, start):
            # A number at the end of the data may continue in the next chunk.
            return match.end() if pattern is STRING or match.end() < len(data) else -1
        if pattern is SCALAR or data.find(b"\n", start) >= 0:
            raise self._malformed("a value")
        return -1

    def _end_of_container(self) -> int:
        depth = 0
        for token in TOKEN.finditer(self._data, self._at):
            byte = self._data[token.start()]
            if byte in b"{[":
                depth += 1
            elif byte in b"}]":
                depth -= 1
                if not depth:
                    return token.end()
            elif token.end() - token.start() == 1:  # a quote without its closing quote
                if self._data.find(b"\n", token.end()) >= 0:
                    where = self._base + token.start()
                    raise Malformed(f"invalid JSON at byte {where}: a string without its closing quote")
                return -1
        return -1

    def _fill(self) -> bool:
        held = self._data[self._at :]
        if len(held) > LONGEST:
            raise Malformed(f"a value at byte {self.offset} is longer than {LONGEST >> 20} MiB")
        # Larger steps for a long value: each step copies all that is held.
        chunk = self._file.read(max(CHUNK, min(len(held), 8 * CHUNK)))
        self._base += self._at
        self._data, self._at = held + chunk, 0
        return bool(chunk)

    def _malformed(self, expected: str) -> Malformed:
        return Malformed(f"invalid JSON at byte {self.offset}: expected {expected}")
