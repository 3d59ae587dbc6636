"""The input of the benchmarks: exports of any size, as varied as the sample generator's, in mixed scripts."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import msgspec

from flows.samples import html
from flows.samples.exports import Maker, SampleSpec

#: Number of different messages (about 10 MB); after that they repeat with new ids and times.
_DIFFERENT = 20_000
_ID = re.compile(rb'(?<=\n   "id": )(-?\d+)(?=,\n   "type": )')


def write_json(path: Path, size: int, chat: int = 1) -> int:
    """Write one chat of about ``size`` bytes as ``result.json``; return the number of its messages."""
    head = f'{{\n "name": "Chat {chat}",\n "type": "private_supergroup",\n "id": {chat},\n "messages": ['
    pieces = _pieces()
    written, number = 0, 0
    with path.open("wb") as file:
        written += file.write(head.encode())
        while written < size:
            before, after = pieces[number % len(pieces)]
            comma = b"," if number else b""
            number += 1
            written += file.write(b"%s%s%d%s" % (comma, before, number, after))
        file.write(b"\n ]\n}\n")
    return number


def write_html(folder: Path, size: int) -> int:
    """Write one chat of about ``size`` bytes as pages of 1,000 messages; return the number of messages."""
    maker = _maker()
    chat, messages = maker.chat("private_supergroup", 5_000, named=True)
    pages = html.chat_pages(chat, messages, 1_000, zone=True)
    count = len(messages) * max(1, round(size / sum(len(page.encode()) for page in pages.values())))
    chat, messages = maker.chat("private_supergroup", count, named=True)
    for name, text in html.chat_pages(chat, messages, 1_000, zone=True).items():
        (folder / name).write_text(text, encoding="utf-8")
    return count


def _maker() -> Maker:
    return Maker(SampleSpec(seed=7, index=0, messages=0, media_bytes=1024, page=1_000))


@functools.cache
def _pieces() -> list[tuple[bytes, bytes]]:
    """Return each different message in the layout of Telegram Desktop, split at its id."""
    _, messages = _maker().chat("private_supergroup", _DIFFERENT)
    text = msgspec.json.format(msgspec.json.encode({"messages": messages}), indent=1)
    inner = text[text.index(b"[") + 1 : text.rindex(b"\n ]")]
    at = [match.span() for match in _ID.finditer(inner)]
    cuts = [0, *(inner.rindex(b",\n  {", 0, start) for start, _ in at[1:]), len(inner)]
    return [
        (inner[cut + (cut > 0) : start], inner[end:following])
        for cut, following, (start, end) in zip(cuts[:-1], cuts[1:], at, strict=True)
    ]
