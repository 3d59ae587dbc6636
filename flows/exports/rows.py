"""Build Arrow record batches from messages.

A batch is built column by column from members that were decoded for a whole block at once
(:mod:`flows.exports.known`), so that Python does little per message. A value of the wrong type for its column
goes to ``extra``, so no value is lost and none causes an error.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import UNSET

from flows.exports.columns import MESSAGES
from flows.exports.ids import PeerIds
from flows.exports.keys import MESSAGE_KEYS, SERVICE_KEYS
from flows.exports.known import COLUMNS, NULL, Known, decode_known
from flows.exports.reading import Chat, note_all
from flows.exports.repair import Message, Messages
from flows.exports.rich import rich_text

#: Messages in a batch, at least; the last block can exceed it.
BATCH = 4096
#: Order of the forms in a revision: of two equally new versions the one from JSON is more complete.
_RANK = {"html": "1", "json": "2"}

#: Up to the year 9999, which Python, Arrow and PostgreSQL all support.
_YEAR_9999 = 253_402_300_799
#: Seconds; greater numbers are milliseconds.
_Seconds = Annotated[int, msgspec.Meta(ge=0, lt=10**11)]
_SECOND = 1_000_000  # microseconds
_DAY = 86_400 * _SECOND
_YEAR_1 = -719_162 * _DAY
_UNIX = msgspec.json.Decoder(float | None, strict=False)  # a number in quotes
_UNIXES = msgspec.json.Decoder(list[_Seconds | None], strict=False)
_ANY = msgspec.json.Decoder()
_UTC, _LOCAL = pa.timestamp("us", tz="UTC"), pa.timestamp("us")
#: The actor of a service message is stored as its sender; its own ``from`` and ``from_id`` go to ``service``.
_REPLACED_BY = {"from": "actor", "from_id": "actor_id"}
#: A message that has only these members has no leftovers.
_ORDINARY = COLUMNS - set(_REPLACED_BY.values())


class Rows:
    """Collects the messages of one source file and returns them in batches.

    ``form`` is ``json`` or ``html``, ``source`` the entry name of the source file.
    """

    def __init__(self, form: str, source: str) -> None:
        """Start with an empty batch."""
        self._form, self._source = form, source
        self._peers = PeerIds()
        self._begin()

    def _begin(self) -> None:
        self._members: list[Message] = []
        self._known: list[Known] = []
        #: Names of mistyped members by the message's index in the batch.
        self._mistyped: defaultdict[int, set[str]] = defaultdict(set)
        self._checksums: list[int] = []
        self._chats: list[tuple[Chat, int]] = []

    def add(self, chat: Chat, found: Messages) -> int:
        """Add messages of one chat; return how many were left out because they have no usable id.

        Messages are counted in ``chat.messages`` once :meth:`batch` returns them.
        """
        decoded, mistyped = decode_known(found)
        kept = [index for index, one in enumerate(decoded) if one.id is not None]
        for at, index in enumerate(kept, len(self._known)) if mistyped else ():
            if index in mistyped:
                self._mistyped[at] = mistyped[index]
        self._known += [decoded[index] for index in kept]
        self._members += [found.members[index] for index in kept]
        self._checksums += [zlib.crc32(found.raws[index]) for index in kept]
        self._chats.append((chat, len(kept)))
        return len(decoded) - len(kept)

    def __len__(self) -> int:
        """Return the number of messages added since the last batch."""
        return len(self._known)

    def batch(self) -> pa.RecordBatch:
        """Return the messages added since the last batch, in the schema MESSAGES."""
        rows = self._known
        types = [one.type for one in rows]
        sent_at, sent_local = self._times(
            "date", [one.date for one in rows], [one.date_unixtime for one in rows]
        )
        edited_at, edited_local = self._times(
            "edited", [one.edited for one in rows], [one.edited_unixtime for one in rows]
        )
        columns: dict[str, Any] = {
            "chat_key": pa.concat_arrays([pa.repeat(chat.chat_key, count) for chat, count in self._chats]),
            "message_id": pa.array([one.id for one in rows], pa.int64()),
            "type": pa.array([kind or "unknown" for kind in types], pa.string()),
            "sent_at": sent_at,
            "sent_local": sent_local,
            # Releases before 2021 wrote 1970-01-01 for messages that were never edited.
            "edited_at": _after_1970(edited_at),
            "edited_local": _after_1970(edited_local),
            "sender_id": self._peer_ids(
                "from_id", [one.from_id if one.actor_id is UNSET else one.actor_id for one in rows]
            ),
            "sender_name": pa.array(
                [one.from_ if one.actor is UNSET else one.actor for one in rows], pa.string()
            ),
            "action": pa.array([one.action for one in rows], pa.string()),
            "reactions": _json(self._lists("reactions", [one.reactions for one in rows])),
            "reply_to_message_id": pa.array([one.reply_to_message_id for one in rows], pa.int64()),
            "reply_to_peer_id": self._peer_ids("reply_to_peer_id", [one.reply_to_peer_id for one in rows]),
            "source": pa.repeat(self._source, len(rows)),
        }
        columns["text"], columns["entities"] = self._texts()
        columns["revision"] = _revisions(columns, self._form, self._checksums)
        columns |= self._leftovers(types)  # last: the steps above find mistyped members
        batch = pa.record_batch([columns[name] for name in MESSAGES.names], schema=MESSAGES)
        note_all(batch, self._chats)
        self._begin()
        return batch

    def _times(self, key: str, values: list[str | float | None], unix: list[msgspec.Raw]) -> tuple[Any, Any]:
        """Return instants and the exporter's local times, from ``date`` and ``date_unixtime`` for example."""
        instants = self._instants(f"{key}_unixtime", unix)
        try:
            times = pa.array(values, pa.string()).cast(_LOCAL)
            if (pc.min(times).cast(pa.int64()).as_py() or 0) >= _YEAR_1:
                return instants, times
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            pass
        read = [self._time(key, at, value) for at, value in enumerate(values)]
        return (
            pc.coalesce(instants, pa.array([instant for instant, _ in read], _UTC)),
            pa.array([local for _, local in read], _LOCAL),
        )

    def _instants(self, key: str, raws: list[msgspec.Raw]) -> Any:
        try:
            seconds = _UNIXES.decode(b"[" + b",".join(raws) + b"]")
        except msgspec.DecodeError:
            return pa.array([self._instant(key, at, raw) for at, raw in enumerate(raws)], _UTC)
        return pa.array(seconds, pa.timestamp("s", tz="UTC")).cast(_UTC)

    def _instant(self, key: str, at: int, raw: msgspec.Raw) -> datetime | None:
        try:
            number: float | None = _UNIX.decode(raw)
            return None if number is None else unix_time(number, earliest=0)
        except ValueError:
            self._mistyped[at].add(key)
            return None

    def _time(self, key: str, at: int, value: str | float | None) -> tuple[datetime | None, datetime | None]:
        """Return the instant and the local time of a date that is not written as Telegram Desktop does."""
        if value is None:
            return None, None
        try:
            if not isinstance(value, str) or value.isdecimal():
                return unix_time(float(value)), None
            time = datetime.fromisoformat(value)
            return time.astimezone(UTC) if time.tzinfo else None, time.replace(tzinfo=None)
        except (ValueError, OverflowError):
            self._mistyped[at].add(key)
            return None, None

    def _peer_ids(self, key: str, values: list[Any]) -> Any:
        peers = self._peers
        found = [peers[value] for value in values]
        if found.count(None) > values.count(None):
            actor = _REPLACED_BY.get(key, key)
            for at, (value, peer) in enumerate(zip(values, found, strict=True)):
                if peer is None and value is not None:
                    self._mistyped[at].add(actor if actor in self._members[at] else key)
        return pa.array(found, pa.string())

    def _lists(self, key: str, raws: list[msgspec.Raw]) -> list[bytes | None]:
        """Return JSON lists unchanged; None for an empty list."""
        texts = [None if raw is NULL else bytes(raw) for raw in raws]
        for at, text in enumerate(texts):
            if text and text[:1] not in b"[n":
                self._mistyped[at].add(key)
        return [text if text and text[:2] == b"[{" else None for text in texts]

    def _texts(self) -> tuple[Any, Any]:
        """Return the columns text (plain text) and entities (its parts; null if it is one plain part)."""
        entities = self._lists("text_entities", [one.text_entities for one in self._known])
        texts: list[str] = []
        for at, one in enumerate(self._known):
            value = one.text
            if isinstance(value, str):
                texts.append(value or self._rich_text(at))
            elif value is None:
                mistyped = "text" in self._mistyped.get(at, ())
                texts.append(_strings_of(self._members[at]["text"]) if mistyped else self._rich_text(at))
            else:
                text = "".join([part if isinstance(part, str) else part.text for part in value])
                texts.append(text or self._rich_text(at))
                entities[at] = entities[at] or _parts(self._members[at]["text"])
        return pa.array(texts, pa.string()), _json(
            [None if _is_plain(parts) else parts for parts in entities]
        )

    def _rich_text(self, at: int) -> str:
        raw = self._members[at].get("rich_message")
        return rich_text(raw) if raw else ""

    def _leftovers(self, types: list[str | None]) -> dict[str, Any]:
        """Return the members without a column of their own, as one JSON object per message and column."""
        columns: dict[str, list[bytes | None]] = {
            name: [None] * len(types) for name in ("media", "forward", "service", "extra")
        }
        for at, row in enumerate(self._members):
            if row.keys() <= _ORDINARY and at not in self._mistyped:
                continue
            mistyped = self._mistyped.get(at, ())
            column_of = SERVICE_KEYS if types[at] == "service" else MESSAGE_KEYS
            members: dict[str, list[bytes]] = {}
            for key, raw in row.items():
                if key not in COLUMNS or key in mistyped or _REPLACED_BY.get(key) in row:
                    members.setdefault(column_of.get(key, "extra"), []).append(_quoted(key) + raw)
            for name, found in members.items():
                columns[name][at] = b"{" + b",".join(found) + b"}"
        return {name: _json(documents) for name, documents in columns.items()}


def _json(documents: list[bytes | None]) -> Any:
    return pa.array(documents, pa.binary()).view(pa.string())  # UTF-8 was checked by parse()


def _after_1970(times: Any) -> Any:
    return pc.if_else(pc.greater(times.cast(pa.int64()), pa.scalar(2 * _DAY)), times, None)


def unix_time(number: float, earliest: float = 10**9) -> datetime:
    """Return the instant of a Unix time in seconds, or in milliseconds from 10**11 on.

    Raises ValueError before ``earliest`` (2001: of numbers that may be no times) and after the year 9999.
    """
    seconds = number / 1000 if number >= 10**11 else number
    if not earliest <= seconds <= _YEAR_9999:
        raise ValueError(number)
    return datetime.fromtimestamp(seconds, UTC)


def _is_plain(parts: bytes | None) -> bool:
    return parts is not None and b'"type":"plain"' in parts and parts.count(b'"type":') == 1


def _strings_of(raw: msgspec.Raw) -> str:
    """Return the strings of a malformed list of text parts, joined; empty if it is no list."""
    found = _ANY.decode(raw) if bytes(raw).startswith(b"[") else []
    texts = [part.get("text") if isinstance(part, dict) else part for part in found]
    return "".join(text for text in texts if isinstance(text, str))


def _parts(raw: msgspec.Raw) -> bytes:
    """Return the mixed list of releases before ``text_entities`` in the form of ``text_entities``."""
    parts = _ANY.decode(raw)
    found = [{"type": "plain", "text": part} if isinstance(part, str) else part for part in parts if part]
    return msgspec.json.encode(found)


@lru_cache(1000)
def _quoted(key: str) -> bytes:
    return msgspec.json.encode(key) + b":"


def _revisions(columns: dict[str, Any], form: str, checksums: list[int]) -> Any:
    """Return the revisions as :mod:`flows.exports.columns` describes them.

    If the UTC offset is unknown, the local time counts as the earliest instant it can mean (UTC+14).
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
