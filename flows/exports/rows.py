"""Messages in, Arrow record batches out: the one place where columns are made.

A batch is made column by column: the raw values of one key of all messages are joined into one JSON array and
decoded at once, so that Python does little per message. A value that is not what its column holds stays with
its message and ends in ``extra``, so nothing is lost and nothing fails.
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from itertools import compress
from typing import Annotated, Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from flows.exports.ids import Int64, PeerIds
from flows.exports.keys import MESSAGE_KEYS, SERVICE_KEYS
from flows.exports.reading import Chat
from flows.exports.repair import Message, Messages
from flows.exports.schema import MESSAGES

#: Messages that make a batch; a block more may come with them.
BATCH = 4096
#: Version order of the forms: where nothing else decides, JSON knows more.
_RANK = {"html": "1", "json": "2"}

#: Up to the year 9999, which Python, Arrow and PostgreSQL all hold.
_Seconds = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799)]
_NULL, _EMPTY = msgspec.Raw(b"null"), msgspec.Raw()
_SECOND = 1_000_000  # microseconds
_DAY = 86_400 * _SECOND
_YEAR_1 = -719_162 * _DAY


class _Part(msgspec.Struct, gc=False):
    text: str = ""


class _Kind:
    """How values of one type are decoded: many at once, or one alone."""

    def __init__(self, kind: Any, *, strict: bool = True) -> None:
        self.many = msgspec.json.Decoder(list[kind], strict=strict)
        self.one = msgspec.json.Decoder(kind, strict=strict)


_STRING = _Kind(str | None)
_INT64 = _Kind(Int64 | None)
_PEER = _Kind(int | str | None)
_UNIX = _Kind(_Seconds | None, strict=False)  # a number in quotes
_TEXT = _Kind(str | list[str | _Part] | None)
_ANY = msgspec.json.Decoder()
_UTC, _LOCAL = pa.timestamp("us", tz="UTC"), pa.timestamp("us")


class Rows:
    """The messages of one source file on their way to batches.

    ``form`` is ``json`` or ``html``, ``source`` the entry name of the source file.
    """

    def __init__(self, form: str, source: str) -> None:
        """Start with nothing."""
        self._form, self._source = form, source
        self._messages: list[Message] = []
        self._checksums: list[int] = []
        self._chats: list[tuple[Chat, int]] = []
        self._peers = PeerIds()

    def add(self, chat: Chat, found: Messages) -> int:
        """Take messages of one chat; return how many have no usable id and were left out.

        They count in ``chat.messages`` as soon as they are in a batch.
        """
        ids = [message.get("id", _NULL) for message in found.members]
        try:
            keep = [value is not None for value in _INT64.many.decode(_array(ids))]
        except msgspec.DecodeError:
            keep = [_or_none(_INT64, raw) is not None for raw in ids]
        self._messages += compress(found.members, keep)
        self._checksums += compress(found.checksums, keep)
        self._chats.append((chat, sum(keep)))
        return len(keep) - sum(keep)

    def __len__(self) -> int:
        """Messages taken since the last batch."""
        return len(self._messages)

    def batch(self) -> pa.RecordBatch:
        """Return what was added since the last batch, in the schema MESSAGES."""
        rows = self._messages
        types = _take(rows, "type", _STRING)
        columns: dict[str, Any] = {
            "chat_key": pa.concat_arrays([pa.repeat(chat.chat_key, count) for chat, count in self._chats]),
            "message_id": pa.array(_take(rows, "id", _INT64), pa.int64()),
            "type": pa.array([kind or "unknown" for kind in types], pa.string()),
            "sent_at": _instants(rows, "date_unixtime"),
            "sent_local": _clock(rows, "date"),
            # Releases before 2021 wrote 1970-01-01 for what was never edited.
            "edited_at": _after_1970(_instants(rows, "edited_unixtime")),
            "edited_local": _after_1970(_clock(rows, "edited")),
            "sender_id": self._peer_ids("from_id", instead="actor_id"),
            "sender_name": pa.array(_take(rows, "from", _STRING, instead="actor"), pa.string()),
            "action": pa.array(_take(rows, "action", _STRING), pa.string()),
            "reactions": _json(_lists(rows, "reactions")),
            "reply_to_message_id": pa.array(_take(rows, "reply_to_message_id", _INT64), pa.int64()),
            "reply_to_peer_id": self._peer_ids("reply_to_peer_id"),
            "source": pa.repeat(self._source, len(rows)),
        }
        columns["text"], columns["entities"] = _texts(rows)
        columns["revision"] = _revisions(columns, self._form, self._checksums)
        columns |= _leftovers(rows, types)  # last: what no column took
        batch = pa.record_batch([columns[name] for name in MESSAGES.names], schema=MESSAGES)
        for chat, count in self._chats:
            chat.messages += count
        self._messages, self._checksums, self._chats = [], [], []
        return batch

    def _peer_ids(self, key: str, instead: str | None = None) -> Any:
        values = _take(self._messages, key, _PEER, instead)
        peers = self._peers
        found = [peers[value] for value in values]
        if found.count(None) > values.count(None):
            for message, value, peer in zip(self._messages, values, found, strict=True):
                if peer is None and value is not None:
                    message[key] = msgspec.Raw(json.dumps(value).encode())
        return pa.array(found, pa.string())


def _array(raws: list[Any]) -> bytes:
    return b"[" + b",".join(raws) + b"]"


def _or_none(kind: _Kind, raw: msgspec.Raw) -> Any:
    try:
        return kind.one.decode(raw)
    except msgspec.DecodeError:
        return None


def _take(rows: list[Message], key: str, kind: _Kind, instead: str | None = None) -> list[Any]:
    """Take the values of ``key`` (or of the key ``instead``, where a message has it) out of the messages."""
    if instead:
        raws = [row.pop(instead, _EMPTY) or row.pop(key, _NULL) for row in rows]
    else:
        raws = [row.pop(key, _NULL) for row in rows]
    try:
        return kind.many.decode(_array(raws))
    except msgspec.DecodeError:
        return [_take_one(row, key, kind, raw) for row, raw in zip(rows, raws, strict=True)]


def _take_one(row: Message, key: str, kind: _Kind, raw: msgspec.Raw) -> Any:
    try:
        return kind.one.decode(raw)
    except msgspec.DecodeError:
        row[key] = raw
        return None


def _lists(rows: list[Message], key: str) -> list[bytes | None]:
    """Take JSON lists as they stand; an empty one says nothing."""
    raws = [row.pop(key, _NULL) for row in rows]
    texts = [bytes(raw) for raw in raws]
    if not {text[:1] for text in texts} <= {b"[", b"n"}:
        for row, raw, text in zip(rows, raws, texts, strict=True):
            if text[:1] not in b"[n":
                row[key] = raw
    return [text if text[:2] == b"[{" else None for text in texts]


def _json(documents: list[bytes | None]) -> Any:
    return pa.array(documents, pa.binary()).cast(pa.string())


def _instants(rows: list[Message], key: str) -> Any:
    return pa.array(_take(rows, key, _UNIX), pa.timestamp("s", tz="UTC")).cast(_UTC)


def _clock(rows: list[Message], key: str) -> Any:
    texts = _take(rows, key, _STRING)
    try:
        times = pa.array(texts, pa.string()).cast(_LOCAL)
        if (pc.min(times).cast(pa.int64()).as_py() or 0) >= _YEAR_1:
            return times
    except pa.ArrowInvalid:
        pass
    return pa.array([_clock_one(row, key, text) for row, text in zip(rows, texts, strict=True)], _LOCAL)


def _clock_one(row: Message, key: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        row[key] = msgspec.Raw(msgspec.json.encode(text))
        return None


def _after_1970(times: Any) -> Any:
    return pc.if_else(pc.greater(times.cast(pa.int64()), pa.scalar(2 * _DAY)), times, None)


def _texts(rows: list[Message]) -> tuple[Any, Any]:
    """Take text and entities: plain text, and a list of its parts unless there is but one plain part."""
    raws = [row.get("text", _NULL) for row in rows]
    values = _take(rows, "text", _TEXT)
    entities = _lists(rows, "text_entities")
    texts: list[str] = []
    for at, value in enumerate(values):
        if isinstance(value, str):
            texts.append(value)
        elif value is None:
            texts.append(_odd_text(rows[at].get("text")))
        else:
            texts.append("".join([part if isinstance(part, str) else part.text for part in value]))
            entities[at] = entities[at] or _parts(raws[at])
    array = _json(entities)
    one = pc.less_equal(pc.count_substring(array, '"type":'), pa.scalar(1))
    plain = pc.and_(one, pc.match_substring(array, '"type":"plain"'))
    return pa.array(texts, pa.string()), pc.if_else(plain, None, array)


def _odd_text(raw: msgspec.Raw | None) -> str:
    """The text in what is not formed as texts are: the strings of a list, whatever else is in it."""
    found = _ANY.decode(raw) if raw is not None and bytes(raw).startswith(b"[") else []
    texts = [part.get("text") if isinstance(part, dict) else part for part in found]
    return "".join(text for text in texts if isinstance(text, str))


def _parts(raw: msgspec.Raw) -> bytes:
    """The entities of releases before text_entities, in its form."""
    parts = _ANY.decode(raw)
    found = [{"type": "plain", "text": part} if isinstance(part, str) else part for part in parts if part]
    return msgspec.json.encode(found)


def _leftovers(rows: list[Message], types: list[str | None]) -> dict[str, Any]:
    """What is left of each message, as one JSON object per column it belongs to."""
    columns: dict[str, list[bytes | None]] = {
        name: [None] * len(rows) for name in ("media", "forward", "service", "extra")
    }
    for at, row in enumerate(rows):
        if not row:
            continue
        column_of = SERVICE_KEYS if types[at] == "service" else MESSAGE_KEYS
        members: dict[str, list[bytes]] = {}
        for key, raw in row.items():
            members.setdefault(column_of.get(key, "extra"), []).append(_quoted(key) + raw)
        for name, found in members.items():
            columns[name][at] = b"{" + b",".join(found) + b"}"
    return {name: _json(documents) for name, documents in columns.items()}


@lru_cache(1000)
def _quoted(key: str) -> bytes:
    return msgspec.json.encode(key) + b":"


def _revisions(columns: dict[str, Any], form: str, checksums: list[int]) -> Any:
    """Versions of a message in order, as text of one width: seconds, rank of the form, checksum.

    Where no offset is known, the clock stands for the earliest instant it can mean (UTC+14).
    """
    exact = pc.max_element_wise(columns["sent_at"].cast(pa.int64()), columns["edited_at"].cast(pa.int64()))
    clock = pc.max_element_wise(
        columns["sent_local"].cast(pa.int64()), columns["edited_local"].cast(pa.int64())
    )
    known = pc.coalesce(exact, pc.subtract(clock, 14 * 3600 * _SECOND), pa.scalar(0))
    seconds = pc.divide(pc.max_element_wise(known, pa.scalar(0)), _SECOND).cast(pa.string())
    sums = pa.array(checksums, pa.uint32()).cast(pa.string())
    return pc.binary_join_element_wise(
        pc.utf8_lpad(seconds, 12, "0"), _RANK[form], pc.utf8_lpad(sums, 10, "0"), "."
    )
