"""Where a JSON file ends too early or is not JSON: the reasons for which reading stops."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from flows.errors import BadInput

CUT_OFF = "cut off in the middle: complete messages before that were kept; export or copy it again"

_CHUNK, _HEADER = 1 << 20, 1 << 16
_STRING = rb'"(?:[^"\\\n]|\\.){0,4000}+"'
#: The beginning of a chat or an account in any layout: members that are short, and one that only these have.
DOCUMENT = re.compile(
    rb"\{\s*+(?:%b\s*+:\s*+(?:%b|[^\s\"{}\[\],]{1,40}+)\s*+,\s*+){0,9}+" % (_STRING, _STRING)
    + rb'"(?:messages|chats|left_chats|personal_information|profile_pictures|stories|contacts|sessions)"'
    + rb"\s*+:\s*+[\[{]"
)
#: The beginning of a message.
MESSAGE = re.compile(
    rb'\{\s*+"id"\s*+:\s*+"?-?\d++"?\s*+,\s*+"type"\s*+:\s*+"(?:message|service|unsupported)"'
)
#: The beginning of a list of messages; the next one of either.
LIST = re.compile(rb'"messages"\s*+:\s*+\[')
_NEXT = re.compile(rb"%b|(?P<message>%b)" % (LIST.pattern, MESSAGE.pattern))
_GAP = b", \t\r\n"


class CutOff(BadInput):
    """The file ends too early: the export or the copy was interrupted. Complete messages were kept."""


class Malformed(BadInput):
    """The file is not JSON from some byte on, and reading cannot go on. What precedes it was kept."""


class Joined(CutOff):
    """The file ends too early in the middle of it: at ``offset`` another document begins."""

    def __init__(self, offset: int) -> None:
        """``offset``: of the other document in the file."""
        super().__init__(f"another JSON document begins at byte {offset} in the middle of it: {CUT_OFF}")
        self.offset = offset

    def __reduce__(self) -> tuple[type[Joined], tuple[int]]:
        """Return what a forked reader sends: by default the message would be passed as the offset."""
        return Joined, (self.offset,)


class Swallowed(CutOff):
    """The file ends too early in the middle of it, and behind ``offset`` another document begins."""

    def __init__(self, offset: int) -> None:
        """``offset``: of the block of messages that the document begins in."""
        super().__init__(CUT_OFF)
        self.offset = offset

    def __reduce__(self) -> tuple[type[Swallowed], tuple[int]]:
        """Return what a forked reader sends."""
        return Swallowed, (self.offset,)


def document_behind(file: BinaryIO, offset: int) -> int:
    """Return where the next chat or account begins in ``file`` from ``offset`` on; -1 if none does."""
    return next((offset + found.start() for offset, found in _first(file, offset, DOCUMENT)), -1)


def broken_message(file: BinaryIO, offset: int) -> int:
    """Return where the broken message at ``offset`` of ``file`` ends; 0 if it is the last one of its list."""
    for at, found in _first(file, offset + 1, _NEXT):
        if found["message"]:
            begin = at + found.start()
            file.seek(max(offset, begin - _CHUNK))
            before = file.read(begin - file.tell())
            return begin - len(before) + len(before.rstrip(_GAP))
    return 0


def _first(file: BinaryIO, offset: int, pattern: re.Pattern[bytes]) -> Iterator[tuple[int, re.Match[bytes]]]:
    """Yield the first match in ``file`` from ``offset`` on, and the offset of the bytes that it counts in."""
    file.seek(offset)
    held = b""
    while chunk := file.read(_CHUNK):
        held += chunk
        if found := pattern.search(held):
            yield offset, found
            return
        offset += max(0, len(held) - _HEADER)
        held = held[-_HEADER:]
