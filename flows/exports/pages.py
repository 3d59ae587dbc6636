"""What a page of HTML says about itself: its chat, its number among the parts, its first and last message.

People rename parts and hand them over one by one, so a part is identified by its links and ids, and by its
name only if it has no links.
"""

from __future__ import annotations

import codecs
import html
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from flows.exports.signs import is_messages_page

#: Bytes at each end of a file that are searched.
ENDS = 1 << 14
#: Day bars are service messages numbered -1, -2, … through all parts; a migrated group's messages have ids
#: near -10**9.
DAY_BARS = range(-1_000_000, 0)

_PART = re.compile(r"messages(\d*)\.html?", re.IGNORECASE)
_BARE = re.compile(r"\d+-.*?messages(\d*)\.html?", re.IGNORECASE)
_TITLE = re.compile(r"""page_header.{0,2000}?<div class=["']?text bold["']?[^<>]*>(.*?)</div>""", re.DOTALL)
_LINK = r"""<a\b[^<>]*\bhref=["']?([^"'<>]*?)(?:#[^"'<>]*)?["'][^<>]*>\s*{} messages"""
_BACK, _NEXT = (re.compile(_LINK.format(word)) for word in ("Previous", "Next"))
_ID = re.compile(r"""<div\b[^<>]*\bclass=["']?message [^<>]*\bid=["']?message(-?\d{1,18})\b""")
_MARKS = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


class Page(NamedTuple):
    """One page; ``number`` is 1 for the first part, ``first`` and ``last`` are ids of messages.

    ``back`` and ``following`` are the names of the parts that it links to, ``bars`` the numbers of its first
    and last day bar that were found. ``complete``: the page is not cut off.
    """

    path: Path
    title: str
    number: int
    back: str
    following: str
    first: int | None
    last: int | None
    bars: tuple[int, ...]
    complete: bool


def is_page(head: bytes) -> bool:
    """Return whether a file that begins with ``head`` is a page of messages from Telegram Desktop."""
    return is_messages_page(_text(head).encode())


def read_page(path: Path) -> Page:
    """Read both ends of a page, or return what was read of it before. Raises OSError."""
    status = path.stat()
    return _read_page(path, status.st_size, status.st_mtime_ns)


@lru_cache(10_000)
def _read_page(path: Path, size: int, _changed: int) -> Page:
    with path.open("rb", buffering=0) as file:
        head = file.read(ENDS)
        file.seek(max(size - ENDS, 0) & ~1)  # characters of UTF-16 have two bytes
        tail = head if size <= ENDS else file.read()
    begin, end = _text(head), _text(tail, head[:2])
    title, back, following = _TITLE.search(begin), _BACK.search(begin), _NEXT.search(end)
    previous, after = (link[1].rpartition("/")[2] if link else "" for link in (back, following))
    ids = [int(match[1]) for text in (begin, end) for match in _ID.finditer(text)]
    own = [number for number in ids if number not in DAY_BARS]
    return Page(
        path,
        " ".join(html.unescape(title[1]).split()) if title else "",
        _number(path, previous, after),
        previous,
        after,
        own[0] if own else None,
        own[-1] if own else None,
        tuple(number for number in ids if number in DAY_BARS),
        "</html" in end[-4096:].lower(),
    )


def part_name(number: int) -> str:
    """Return the name that Telegram Desktop gives to a part."""
    return f"messages{number if number > 1 else ''}.html"


def chunks_of(path: Path, size: int) -> Iterator[bytes]:
    """Yield the content of a page, also of one in UTF-16, in chunks of UTF-8 of about ``size`` bytes."""
    with path.open("rb", buffering=0) as file:
        first = file.read(size)
        coding = _MARKS.get(first[:2])
        if not coding:
            yield first
            while chunk := file.read(size):
                yield chunk
            return
        decoder = codecs.getincrementaldecoder(coding)("replace")
        chunk = first[2:]
        while chunk:
            yield decoder.decode(chunk).encode("utf-8", "replace")
            chunk = file.read(size)


def _number(path: Path, back: str, following: str) -> int:
    """Return the number of a part by its links, or else by its name."""
    for link, step in (back, 1), (following, -1):
        if (number := _number_in(_PART, link)) and number + step > 0:
            return number + step
    bare = _number_in(_BARE, path.parent.name) if path.name == "messages.html" else 0
    return bare or _number_in(_PART, path.name) or 1


def _number_in(pattern: re.Pattern[str], name: str) -> int:
    match = pattern.fullmatch(name)
    return int(match[1] or 1) if match else 0


def _text(content: bytes, mark: bytes = b"") -> str:
    return content.decode(_MARKS.get(mark or content[:2], "utf-8"), "replace")
