"""Read Telegram Desktop's HTML: one chat, in parts of 1,000 messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pyarrow as pa
from selectolax.lexbor import LexborHTMLParser

from flows.errors import BadInput
from flows.exports import ids
from flows.exports.discover import Export, part_number
from flows.exports.html_message import Above, message
from flows.exports.html_text import inner_text
from flows.exports.reading import Chat, Reading
from flows.exports.repair import parse
from flows.exports.rows import BATCH, Rows
from flows.exports.scan import LONGEST, Block

#: Bytes parsed at once; a part has a little over 1 MB, but other programs join all parts into one.
_CHUNK = 1 << 20
_START = re.compile(rb"""<div\b[^<>]*\bclass=["']?message[ "'][^<>]*>""")
_DIV = re.compile(rb"<div\b|</div>")
_BREAK = re.compile(r"<br\s*/?>")
_NEXT = re.compile(rb"""<a\b[^<>]*\bhref=["']?(messages\d+\.html)["']?[^<>]*>\s*Next messages""")


def read_html(export: Export, reading: Reading) -> Iterator[pa.RecordBatch]:
    """Yield the messages of one chat in batches of MESSAGES; add the chat and problems to ``reading``.

    Memory does not grow with the files. Parts that are missing or cut off are reported as problems.
    """
    try:
        yield from _HtmlReader(export, reading).batches()
    except BadInput as error:
        reading.problems.append(str(error))


class _HtmlReader:
    def __init__(self, export: Export, reading: Reading) -> None:
        self._export, self._reading = export, reading
        self._rows = Rows("html", reading.source)
        self._above = Above()
        self._chat: Chat | None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        if missing := self._missing():
            self._reading.problems.append(f"parts missing, with their messages: {', '.join(missing)}")
        for part in self._export.parts:
            for piece in self._pieces(part):
                self._read(piece)
                if len(self._rows) >= BATCH:
                    yield self._rows.batch()
        if len(self._rows):
            yield self._rows.batch()

    def _missing(self) -> list[str]:
        """Return the names of missing parts: gaps in the numbers, and the part that the last one links to."""
        parts = self._export.parts
        missing = []
        for before, number in pairwise([0, *map(part_number, parts)]):
            if number > before + 1:
                first = f"messages{before + 1 if before else ''}.html"
                missing.append(first if number == before + 2 else f"{first} to messages{number - 1}.html")
        with parts[-1].open("rb") as file:
            file.seek(-min(parts[-1].stat().st_size, 4096), 2)
            following = _NEXT.search(file.read())
        return [*missing, following[1].decode()] if following else missing

    def _pieces(self, part: Path) -> Iterator[bytes]:
        """Yield complete messages of a part, about _CHUNK bytes at once; first with the head of the page."""
        held = b""
        with part.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                held += chunk
                start = max((match.start() for match in _START.finditer(held)), default=0)
                if start and len(held) > _CHUNK:
                    yield held[:start]
                    held = held[start:]
                if len(held) > LONGEST:
                    self._reading.problems.append(
                        f"{part.name} has a message longer than {LONGEST >> 20} MiB"
                    )
                    return
        yield self._whole(part, held)

    def _whole(self, part: Path, tail: bytes) -> bytes:
        """Return the end of a part, without a message that is cut off."""
        if b"</html" in tail[-4096:].lower():
            return tail
        self._reading.problems.append(f"{part.name} is cut off: complete messages before that were kept")
        start = max((match.start() for match in _START.finditer(tail)), default=len(tail))
        depth = 0
        for tag in _DIV.finditer(tail, start):
            depth += -1 if tag[0].startswith(b"</") else 1
            if not depth:
                return tail[: tag.end()]
        return tail[:start]

    def _read(self, piece: bytes) -> None:
        # Line breaks of texts are <br>; inner_text() and text_parts() remove those of the file's layout.
        html = _BREAK.sub("\n", piece.decode("utf-8", "replace")).replace("<pre>", "<pre>\n")
        tree = LexborHTMLParser(html)
        chat = self._chat = self._chat or self._begin(tree)
        found = (message(node, self._above) for node in tree.css("div.message"))
        raws = [msgspec.json.encode(one) for one in found if one is not None]
        if not raws:
            return
        messages = parse(Block(b",".join(raws), elements=tuple(raws)))
        if "~" not in chat.chat_key:
            chat.chat_key += ids.start_mark(messages.members)
        self._reading.lost += messages.lost
        self._reading.without_id += self._rows.add(chat, messages)

    def _begin(self, tree: LexborHTMLParser) -> Chat:
        head = tree.css_first("div.page_header div.text")
        if head is None and tree.css_first("div.history, div.message") is None:
            raise BadInput("no chat in its HTML: not a Telegram export; export again from Telegram Desktop")
        name = inner_text(head).strip() if head else ""
        known = None if name in ("", "Deleted Account") else name
        chat = Chat(ids.named_key(name), None, None, known, None, "html")
        self._reading.chats.append(chat)
        return chat
