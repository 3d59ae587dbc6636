"""Build Arrow record batches from messages.

A batch is built column by column from members that were decoded for a whole block at once
(:mod:`flows.exports.known`), so that Python does little per message. A value of the wrong type for its column
goes to ``extra``, so no value is lost and none causes an error.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from operator import itemgetter
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import UNSET

from flows.exports.columns import MESSAGES
from flows.exports.ids import LATER, PeerIds, is_great, peer_id
from flows.exports.keys import MESSAGE_KEYS, SERVICE_KEYS
from flows.exports.known import COLUMNS, NULL, Known, decode_known
from flows.exports.reading import Chat, note_all
from flows.exports.repair import Message, Messages
from flows.exports.rich import rich_text
from flows.exports.times import SECOND, after_1970, read_times

#: Messages in a batch, at least; the last block can exceed it.
BATCH = 4096
#: Order of the forms in a revision: of two equally new versions the one from JSON is more complete.
_RANK = {"html": "1", "json": "2"}

_ANY = msgspec.json.Decoder()
#: The actor of a service message is stored as its sender; its own ``from`` and ``from_id`` go to ``service``.
_REPLACED_BY = {"from": "actor", "from_id": "actor_id"}
#: Members of a message whose plan is kept for others: Telegram Desktop writes 30 at most.
_MOST_KEYS = 100
_NONE = frozenset[str]()


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
        columns = self._columns(self._known) | self._times(self._known)
        columns["text"], columns["entities"] = self._texts()
        columns["revision"] = _revisions(columns, self._form, self._checksums)
        columns |= self._leftovers()  # last: the steps above find mistyped members
        batch = pa.record_batch([columns[name] for name in MESSAGES.names], schema=MESSAGES)
        note_all(batch, self._chats)
        self._begin()
        return batch

    def _columns(self, rows: list[Known]) -> dict[str, Any]:
        """Return the columns that have a member each."""
        return {
            "chat_key": pa.concat_arrays([pa.repeat(chat.chat_key, count) for chat, count in self._chats]),
            "message_id": pa.array([one.id for one in rows], pa.int64()),
            "type": pa.array([one.type or "unknown" for one in rows], pa.string()),
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

    def _times(self, rows: list[Known]) -> dict[str, Any]:
        """Return the instants and the exporter's local times at which messages were sent and edited."""
        sent, sent_unix = [one.date for one in rows], [one.date_unixtime for one in rows]
        edited, edited_unix = [one.edited for one in rows], [one.edited_unixtime for one in rows]
        sent_at, sent_local = read_times("date", sent, sent_unix, self._mistyped)
        edited_at, edited_local = read_times("edited", edited, edited_unix, self._mistyped)
        return {
            "sent_at": sent_at,
            "sent_local": sent_local,
            "edited_at": after_1970(edited_at),
            "edited_local": after_1970(edited_local),
        }

    def _peer_ids(self, key: str, values: list[Any]) -> Any:
        peers = self._peers
        found = [peers[value] for value in values]
        if peers.has_great:
            found = [self._unshifted(at, value, found[at]) for at, value in enumerate(values)]
        if found.count(None) > values.count(None):
            actor = _REPLACED_BY.get(key, key)
            for at, (value, peer) in enumerate(zip(values, found, strict=True)):
                if peer is None and value is not None:
                    self._mistyped[at].add(actor if actor in self._members[at] else key)
        return pa.array(found, pa.string())

    def _unshifted(self, at: int, value: int | str | None, found: str | None) -> str | None:
        """Return the id of a peer; a number has no offset beside members of releases after those with one."""
        is_later = is_great(value) and not LATER.isdisjoint(self._members[at])
        return peer_id(value, shifted=False) if is_later else found

    def _lists(self, key: str, raws: list[msgspec.Raw]) -> list[bytes | None]:
        """Return JSON lists unchanged; None for an empty list."""
        texts = [None if raw is NULL else bytes(raw) for raw in raws]
        lists = [text if text and text.startswith(b"[{") else None for text in texts]
        for at, text in enumerate(texts):
            if text and not text.startswith((b"[", b"n")):
                self._mistyped[at].add(key)
        return lists

    def _texts(self) -> tuple[Any, Any]:
        """Return the columns text (plain text) and entities (its parts; null if it is one plain part)."""
        entities = self._lists("text_entities", [one.text_entities for one in self._known])
        texts: list[str] = []
        for at, one in enumerate(self._known):
            value = one.text
            if isinstance(value, str):
                texts.append(value or self._text_elsewhere(at, entities[at]))
            elif value is None:
                mistyped = "text" in self._mistyped.get(at, ())
                text = _strings_of(self._members[at]["text"]) if mistyped else ""
                texts.append(text or self._text_elsewhere(at, entities[at]))
            else:
                text = "".join([part if isinstance(part, str) else part.text for part in value])
                texts.append(text or self._text_elsewhere(at, entities[at]))
                entities[at] = entities[at] or _parts(self._members[at]["text"])
        formatted = [
            None if parts is None or (b'"type":"plain"' in parts and parts.count(b'"type":') == 1) else parts
            for parts in entities
        ]
        return pa.array(texts, pa.string()), _json(formatted)

    def _text_elsewhere(self, at: int, entities: bytes | None) -> str:
        """Return the text of a message that has none under its own key: of a rich one, or of its parts."""
        raw = self._members[at].get("rich_message")
        return (rich_text(raw) if raw else "") or (_strings_of(entities) if entities else "")

    def _leftovers(self) -> dict[str, Any]:
        """Return the members without a column of their own, as one JSON object per message and column."""
        columns: dict[str, list[bytes | None]] = {
            name: [None] * len(self) for name in ("media", "forward", "service", "extra")
        }
        for at, row in enumerate(self._members):
            plan = _plan if len(row) <= _MOST_KEYS else _plan.__wrapped__
            mistyped = frozenset(self._mistyped[at]) if at in self._mistyped else _NONE
            is_service = self._known[at].type == "service"
            for name, template, values in plan(tuple(row), is_service, mistyped):
                columns[name][at] = template % values(row)
        return {name: _json(documents) for name, documents in columns.items()}


def _json(documents: list[bytes | None]) -> Any:
    return pa.array(documents, pa.binary()).view(pa.string())  # UTF-8 was checked by parse()


def _strings_of(raw: bytes) -> str:
    """Return the text of parts that are malformed or nested, joined."""

    def strings(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            part = part.get("text")
        if isinstance(part, list):
            for inner in part:
                yield from strings(inner)
        elif isinstance(part, str | int | float) and not isinstance(part, bool):
            yield str(part)

    with suppress(RecursionError):
        return "".join(strings(_ANY.decode(raw)))
    return ""


def _parts(raw: msgspec.Raw) -> bytes:
    """Return the mixed list of releases before ``text_entities`` in the form of ``text_entities``."""
    parts = _ANY.decode(raw)
    found = [{"type": "plain", "text": part} if isinstance(part, str) else part for part in parts if part]
    return msgspec.json.encode(found)


@lru_cache(2000)
def _plan(
    keys: tuple[str, ...], is_service: bool, mistyped: frozenset[str]
) -> list[tuple[str, bytes, Callable[[Message], Any]]]:
    """Return how the leftovers of all messages with these members, including ``mistyped`` ones, are stored.

    Per column: its name, its JSON object with a place for each value, and what gets these values from a
    message. An export has some hundred sets of members, each in thousands of messages.
    """
    column_of = SERVICE_KEYS if is_service else MESSAGE_KEYS
    members: dict[str, list[str]] = {}
    for key in keys:
        if key not in COLUMNS or key in mistyped or _REPLACED_BY.get(key) in keys:
            members.setdefault(column_of.get(key, "extra"), []).append(key)
    return [(name, _template(found), itemgetter(*found)) for name, found in members.items()]


def _template(keys: list[str]) -> bytes:
    quoted = (msgspec.json.encode(key).replace(b"%", b"%%") for key in keys)
    return b"{" + b",".join(key + b":%b" for key in quoted) + b"}"


def _revisions(columns: dict[str, Any], form: str, checksums: list[int]) -> Any:
    """Return the revisions as :mod:`flows.exports.columns` describes them.

    If the UTC offset is unknown, the local time counts as the earliest instant it can mean (UTC+14).
    """
    exact = pc.max_element_wise(columns["sent_at"].cast(pa.int64()), columns["edited_at"].cast(pa.int64()))
    clock = pc.max_element_wise(
        columns["sent_local"].cast(pa.int64()), columns["edited_local"].cast(pa.int64())
    )
    known = pc.coalesce(exact, pc.subtract(clock, 14 * 3600 * SECOND), pa.scalar(0))
    seconds = pc.divide(pc.max_element_wise(known, pa.scalar(0)), SECOND).cast(pa.string())
    sums = pa.array(checksums, pa.uint32()).cast(pa.string())
    return pc.binary_join_element_wise(
        pc.utf8_lpad(seconds, 12, "0"), _ranks(columns, form), pc.utf8_lpad(sums, 10, "0"), "."
    )


def _ranks(columns: dict[str, Any], form: str) -> Any:
    """Return the order of the forms; last is a message joined to one in a part that is not here."""
    if form == "json":
        return _RANK[form]
    lacks = pc.and_(pc.equal(columns["type"], pa.scalar("message")), pc.is_null(columns["sender_name"]))
    return pc.if_else(lacks, "0", _RANK[form])
