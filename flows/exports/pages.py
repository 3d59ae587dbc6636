"""What a page of HTML says about itself: its chat, its number among the parts, its first and last message.

People rename parts and hand them over one by one, so a part is identified by its links and ids, and by its
name only if it has no links.
"""

from __future__ import annotations

import codecs
import html
import mmap
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from flows.exports.encoding import SAMPLE, legacy_of
from flows.exports.signs import PAGE_HEAD, is_messages_page

#: Bytes at each end of a file that are searched.
ENDS = 1 << 14
#: Day bars are service messages numbered -1, -2, … through all parts; a migrated group's messages have ids
#: near -10**9.
DAY_BARS = range(-1_000_000, 0)

_PART = re.compile(r"messages(\d*)\.html?", re.IGNORECASE)
_BARE = re.compile(r"\d+-.*?messages(\d*)\.html?", re.IGNORECASE)
_SINGLE = re.compile(r"\d+-(.*\.html?)", re.IGNORECASE | re.DOTALL)
_TITLE = re.compile(r"""page_header.{0,2000}?<div class=["']?text bold["']?[^<>]*>(.*?)</div>""", re.DOTALL)
_LINK = r"""<a\b[^<>]*\bhref=["']?([^"'<>]*?)(?:#[^"'<>]*)?["'][^<>]*>\s*{} messages"""
_BACK, _NEXT = (re.compile(_LINK.format(word)) for word in ("Previous", "Next"))
#: The same links after a browser has translated their words: they are before or behind all messages.
_LINK_OF_ANY_WORDS = re.compile(
    r"""<a\b(?=[^<>]*\bclass=["']?pagination\b)[^<>]*\bhref=["']?([^"'<>]*?)(?:#[^"'<>]*)?["'][^<>]*>"""
)
_ID = re.compile(r"""<div\b[^<>]*\bclass=["']?message [^<>]*\bid=["']?message(-?\d{1,18})\b""")
#: Where a page begins that Telegram Desktop wrote, also in the middle of a file.
BEGIN = re.compile(rb"<!DOCTYPE html>\r?\n<html>")
_END = b"</html>"
#: Bytes of the name of a file, at most.
_LONGEST = 255
#: What browsers and editors add behind the end of a page.
_COMMENTS = re.compile(rb"(?:\s|\0|\x1a|<!--.*?-->)*+", re.DOTALL)
_MARKS = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


class Page(NamedTuple):
    """One page; ``number`` is 1 for the first part, ``first`` and ``last`` are ids of messages.

    ``back`` and ``following`` are the names of the parts that it links to, ``bars`` the numbers of its first
    and last day bar that were found. ``complete``: the page is not cut off. ``size`` is the number of its
    bytes, fewer than those of the file if something else follows the page; ``behind`` is the number of those.
    ``encoding`` is that of its text, if that is certain: else UTF-8, with other bytes in it.
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
    size: int
    behind: int
    encoding: str


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
        encoding = _encoding_of(file, head)
        begin = head.decode(encoding, "replace")
        if "page_header" not in begin and not _ID.search(begin):
            begin = _from_header(head, file).decode(encoding, "replace")
        title = _title(begin)
        own = _own_size(file, title, size, encoding)
        file.seek(max(own - ENDS, 0) & ~1)  # characters of UTF-16 have two bytes
        tail = head[:own] if own <= ENDS else file.read(ENDS)
    end = tail.decode(encoding, "replace")
    previous, after = _links(begin, end)
    ids = [int(match[1]) for text in (begin, end) for match in _ID.finditer(text)]
    messages = [number for number in ids if number not in DAY_BARS]
    return Page(
        path,
        title,
        _number(path, previous, after),
        previous,
        after,
        messages[0] if messages else None,
        messages[-1] if messages else None,
        tuple(number for number in ids if number in DAY_BARS),
        "</html" in end[-4096:].lower(),
        own,
        size - own,
        encoding,
    )


def _encoding_of(file: BinaryIO, head: bytes) -> str:
    """Return the encoding of a page that begins with ``head``, what was read of it so far."""
    if encoding := _MARKS.get(head[:2]):
        return encoding
    at = file.tell()
    wrong = _not_in("utf-8", file, head)
    legacy = wrong and legacy_of(wrong if wrong != head else head + file.read(SAMPLE))
    file.seek(at)
    whole = legacy and _not_in(legacy, file, head) is None
    file.seek(at)
    return legacy if legacy and whole else "utf-8"


def _not_in(encoding: str, file: BinaryIO, head: bytes) -> bytes | None:
    """Return the first chunk of ``head`` and the rest of ``file`` that is not in this encoding, if any is."""
    decoder, chunk = codecs.getincrementaldecoder(encoding)(), head
    try:
        while chunk:
            decoder.decode(chunk)
            chunk = file.read(SAMPLE)
    except UnicodeDecodeError:
        return chunk
    return None


def _from_header(head: bytes, file: BinaryIO) -> bytes:
    """Return the part of a page from its header on, if that is behind long styles; or its ``head``."""
    more = file.read(PAGE_HEAD)
    start = more.find(b"page_header")
    return more[start : start + ENDS] if start >= 0 else head


def _links(begin: str, end: str) -> tuple[str, str]:
    """Return the names of the parts that a page links to before its first and behind its last message."""
    first, last = _ID.search(begin), max((found.end() for found in _ID.finditer(end)), default=0)
    back = _BACK.search(begin) or (first and _LINK_OF_ANY_WORDS.search(begin, 0, first.start()))
    following = _NEXT.search(end, last) or (last and _LINK_OF_ANY_WORDS.search(end, last))
    names = (link[1].rpartition("/")[2] if link else "" for link in (back, following))
    before, after = (name if _may_be_file(name) else "" for name in names)
    return before, after


def _may_be_file(name: str) -> bool:
    return name not in (".", "..") and "\0" not in name and len(name.encode("utf-8", "replace")) <= _LONGEST


def _title(text: str) -> str:
    found = _TITLE.search(text)
    return " ".join(html.unescape(found[1]).split()) if found else ""


def _own_size(file: BinaryIO, title: str, size: int, encoding: str) -> int:
    """Return the number of bytes of the page, and of further pages of the chat ``title`` that follow it.

    A page that is cut off ends where another one begins.
    """
    if not size:
        return 0
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        end = 0
        while (found := data.find(_END, end)) >= 0:
            another = BEGIN.search(data, end + 1, found)
            end = another.start() if another else found + len(_END)
            blank = _COMMENTS.match(data, end)
            begin = blank.end() if blank else end
            rest = data[begin : begin + ENDS]
            if rest and not (
                is_page(rest) and _title(rest.decode(encoding, "replace")) in ("", title)
            ):  # a page may lack its header
                return end
            end = begin if another else end
    return size


def part_name(number: int) -> str:
    """Return the name that Telegram Desktop gives to a part."""
    return f"messages{number if number > 1 else ''}.html"


def shown_name(path: Path) -> str:
    """Return the name of a page for the operator: that of the source file if it is one page."""
    single = _SINGLE.fullmatch(path.parent.name) if path.name == part_name(1) else None
    return single[1] if single else path.name


def chunks_of(page: Page, size: int) -> Iterator[bytes]:
    """Yield the content of a page in chunks of UTF-8, of about ``size`` bytes, whatever its encoding."""
    chunks = _raw_chunks(page, size)
    if page.encoding == "utf-8":
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(page.encoding)("replace")
    for chunk in chunks:
        yield decoder.decode(chunk).removeprefix("\ufeff").encode("utf-8", "replace")


def _raw_chunks(page: Page, size: int) -> Iterator[bytes]:
    left = page.size
    with page.path.open("rb", buffering=0) as file:
        while chunk := file.read(min(size, left)):
            left -= len(chunk)
            yield chunk


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


def _text(content: bytes) -> str:
    return content.decode(_MARKS.get(content[:2], "utf-8"), "replace")
