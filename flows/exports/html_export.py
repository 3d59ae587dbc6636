"""Read Telegram Desktop's HTML: one chat, in parts of 1,000 messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise, tee
from pathlib import Path
from typing import NamedTuple

import msgspec
import pyarrow as pa

from flows.errors import BadInput
from flows.exports import ids
from flows.exports.chains import has_next_beside
from flows.exports.discover import Export
from flows.exports.html_batch import End, HtmlBatch
from flows.exports.html_message import Above, is_numbered, message
from flows.exports.html_text import inner_text
from flows.exports.html_tree import START, Piece, read_piece
from flows.exports.pages import BEGIN, Page, chunks_of, part_name, read_page, shown_name
from flows.exports.reading import Chat, Map, Reading
from flows.exports.repair import Message, Messages, split
from flows.exports.rows import Rows
from flows.exports.scan import LONGEST
from flows.exports.signs import not_telegram
from flows.exports.zones import Clock

#: Bytes parsed at once; a part has a little over 1 MB, but other programs join all parts into one.
_CHUNK = 1 << 20
#: Stands for what is not known where a piece is read apart: the sender above it.
_UNKNOWN = {"?": None}
_DIV = re.compile(rb"<div\b|</div>")
_TOGETHER = "submit all parts of the chat together, otherwise each is stored as a chat of its own"
_ZEROS = "what was there is lost"
#: What stands for bytes that are not UTF-8.
_REPLACED = "\ufffd".encode()
#: What editors and other programs write before a page.
_BEFORE = re.compile(rb"(?:\xef\xbb\xbf|\s|<!--.*?-->|<\?xml[^<>]*>)*+", re.DOTALL)


class _Piece(NamedTuple):
    """The messages of one piece as a batch (None without messages), and the state after the last of them."""

    batch: pa.RecordBatch | None
    above: Above
    lost: int = 0
    without_id: int = 0
    not_utf8: int = 0


def read_html(
    export: Export, reading: Reading, batch: HtmlBatch | None = None, each: Map = map
) -> Iterator[pa.RecordBatch]:
    """Yield the messages of one chat in batches of MESSAGES; add the chat and problems to ``reading``.

    All parts but the first are read by ``each``, that is, by other processes if it has any. Messages that the
    JSON of the same source file has are left out. Memory does not grow with the files. Parts that are missing
    or cut off are reported as problems.
    """
    batch = batch or HtmlBatch()
    pages = [read_page(part) for part in export.parts]
    reader = _HtmlReader(export, pages, reading, batch, each)
    try:
        yield from reader.new_rows(_twin_of(export, pages, reading, batch))
    except BadInput as error:
        reading.problems.append(str(error))


def _twin_of(export: Export, pages: list[Page], reading: Reading, batch: HtmlBatch) -> str | None:
    """Return the key of the JSON chat of the same source file that is the same chat as this one."""
    twins = batch.twins
    shared = [page for page in pages if twins and twins.may_have(page.first, page.last)]
    if not twins or not shared:
        return None
    part = Export("html", tuple(page.path for page in shared))
    try:
        return twins.twin_of(_HtmlReader(part, shared, Reading(reading.source), batch).rows())
    except BadInput:
        return None


class _HtmlReader:
    def __init__(
        self,
        export: Export,
        pages: list[Page],
        reading: Reading,
        batch: HtmlBatch,
        each: Map = map,
    ) -> None:
        self._export, self._pages, self._reading, self._batch = export, pages, reading, batch
        self._each = each
        self._end = batch.end_before(export)
        self._above = replace(self._end.above) if self._end else Above()
        self._chat: Chat | None = None

    def new_rows(self, twin: str | None) -> Iterator[pa.RecordBatch]:
        """Yield the messages that the JSON chat ``twin`` does not have."""
        if missing := self._missing():
            self._reading.problems.append(f"parts missing: {', '.join(missing)}; {_TOGETHER}")
        self._reading.problems += [
            f"not read: the {page.behind} bytes behind the end of {shown_name(page.path)}"
            for page in self._pages
            if page.behind
        ]
        differ = 0
        for rows in self.rows(twin):
            new = rows
            if twin and self._batch.twins:
                new, contrary = self._batch.twins.without_known(twin, rows)
                differ += contrary
                self._counted.messages -= rows.num_rows - new.num_rows
            if new.num_rows:
                yield new
        if differ:
            self._reading.problems.append(
                f"messages whose time differs from that of the JSON's message with this id: {differ};"
                " those of the JSON were kept"
            )
        self._finish(twin)

    def _finish(self, twin: str | None) -> None:
        if chat := self._chat:
            self._batch.ended(self._export, End(chat.chat_key, self._above))
            if twin and chat.held:
                chat.held.is_filtered = True
            if twin and not chat.messages:
                self._reading.chats.remove(chat)

    @property
    def _counted(self) -> Chat:
        assert self._chat, "rows belong to a chat"  # noqa: S101 - for mypy: the first piece has set it
        return self._chat

    def rows(self, key: str | None = None) -> Iterator[pa.RecordBatch]:
        """Yield all messages, as a chat with this ``key`` if it is known."""
        pieces: Iterator[bytes] = chain.from_iterable(map(self._pieces, self._export.parts))
        for piece in pieces:  # until the chat is identified, by its first messages
            yield from self._taken(self._read(piece, key))
            if key or "~" in self._counted.chat_key:
                break
        else:
            return
        apart = partial(
            _read_apart, replace(self._counted, held=None), self._batch.clock, self._reading.source
        )
        again, pieces = tee(pieces)
        for piece, result in zip(again, self._each(apart, pieces), strict=True):
            yield from self._taken(result or self._read(piece, key))

    def _taken(self, piece: _Piece) -> Iterator[pa.RecordBatch]:
        self._above = piece.above
        self._reading.lost += piece.lost
        self._reading.without_id += piece.without_id
        self._reading.not_utf8 += piece.not_utf8
        if piece.batch:
            self._counted.note(piece.batch)
            yield piece.batch

    def _missing(self) -> list[str]:
        """Return the names of missing parts: gaps in the numbers, and the part that the last one links to."""
        before = self._batch.page_before(self._export)
        missing = []
        numbers = [before.number if before else 0, *(page.number for page in self._pages)]
        for above, number in pairwise(numbers):
            if number > above + 1:
                first = part_name(above + 1)
                missing.append(first if number == above + 2 else f"{first} to {part_name(number - 1)}")
        last = self._pages[-1]
        if last.following and not self._batch.is_continued(self._export) and not has_next_beside(last):
            missing.append(last.following)
        return missing

    def _pieces(self, part: Path) -> Iterator[bytes]:
        """Yield complete messages of a part, about _CHUNK bytes at once; first with the head of the page."""
        held, zeros = b"", 0
        for chunk in chunks_of(read_page(part), _CHUNK):
            zeros += chunk.count(0)
            held += chunk
            while another := BEGIN.search(held, 1):
                if not _BEFORE.fullmatch(held, 0, another.start()):
                    yield self._whole(part, held[: another.start()])
                held = held[another.start() :]
            if len(held) > _CHUNK and (
                start := max((one.start() for one in START.finditer(held)), default=0)
            ):
                yield held[:start]
                held = held[start:]
            if len(held) > LONGEST:
                self._reading.problems.append(
                    f"{shown_name(part)} has a message longer than {LONGEST >> 20} MiB"
                )
                return
        if zeros > len(held) - len(held.rstrip(b"\0")):  # those at its end do not matter
            self._problem(part, f"has zeros in it, as after a failure of the disk: {_ZEROS}")
        yield self._whole(part, held)

    def _problem(self, part: Path, problem: str) -> None:
        self._reading.problems.append(f"{shown_name(part)} {problem}")

    def _whole(self, part: Path, tail: bytes) -> bytes:
        """Return the end of a part, without a message that is cut off."""
        if b"</html" in tail[-4096:].lower():
            return tail
        self._reading.problems.append(
            f"{shown_name(part)} is cut off: complete messages before that were kept"
        )
        start = max((match.start() for match in START.finditer(tail)), default=len(tail))
        depth = 0
        for tag in _DIV.finditer(tail, start):
            depth += -1 if tag[0].startswith(b"</") else 1
            if not depth:
                return tail[: tag.end()]
        return tail[:start]

    def _read(self, piece: bytes, key: str | None) -> _Piece:
        html = _utf8(piece)
        read = read_piece(html)
        chat = self._chat = self._chat or self._begin(read, piece, key)
        above = replace(self._above)
        messages = _messages(read, above, self._batch.clock)
        if not key and "~" not in chat.chat_key:
            chat.chat_key += _start_mark(messages.members)
        return _piece(replace(chat, held=None), self._reading.source, messages, above, html is piece)

    def _begin(self, read: Piece, piece: bytes, key: str | None) -> Chat:
        head = read.tree.css_first("div.page_header div.text")
        if head is None and not any(found or is_numbered(node) for node, found in read.messages):
            raise BadInput(not_telegram(piece))
        name = inner_text(head).strip() if head else ""
        known = None if name in ("", "Deleted Account") else name
        key = key or (self._end.chat_key if self._end else ids.named_key(name))
        chat = Chat(key, None, None, known, None, "html")
        self._reading.chats.append(chat)
        return chat


def _read_apart(chat: Chat, clock: Clock, source: str, piece: bytes) -> _Piece | None:
    """Read a piece of ``chat``, maybe in another process; None if it depends on the message above it."""
    above, html = Above(_UNKNOWN, _UNKNOWN), _utf8(piece)
    messages = _messages(read_piece(html), above, clock)
    if any("?" in one for one in (above.sender, above.forward, *messages.members)):
        return None
    return _piece(chat, source, messages, above, html is piece)


def _utf8(piece: bytes) -> bytes:
    """Return ``piece``, itself if it is UTF-8; if not, with characters that stand for what is not."""
    try:
        pa.array([piece], pa.binary()).cast(pa.string())  # faster than to decode it
    except pa.ArrowInvalid:
        return piece.decode("utf-8", "replace").encode()
    return piece


def _messages(piece: Piece, above: Above, clock: Clock) -> Messages:
    """Return all messages, and how many were lost; ``above`` becomes that after them."""
    found = [one for node, head in piece.messages if (one := message(node, head, above, clock)) is not None]
    # What lexbor returns is valid: it has replaced NUL, and there are no surrogates.
    return split(msgspec.json.encode(found))._replace(lost=piece.lost)


def _piece(chat: Chat, source: str, messages: Messages, above: Above, valid: bool) -> _Piece:
    rows = Rows("html", source)
    without_id = rows.add(chat, messages)
    not_utf8 = 0 if valid else max(1, sum(_REPLACED in raw for raw in map(bytes, messages.raws)))
    return _Piece(rows.batch() if len(rows) else None, above, messages.lost, without_id, not_utf8)


def _start_mark(messages: list[Message]) -> str:
    """Return the mark of the first message by its wall-clock time, which no setting of a zone changes."""
    return ids.start_mark(
        [{key: raw for key, raw in one.items() if key != "date_unixtime"} for one in messages]
    )
