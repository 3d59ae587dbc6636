"""What one export holds of a chat, so that store can prove which messages it no longer has.

An export lists the messages of a chat from its first one to its last one, unless something was filtered.
Where a chat may be filtered without a trace in the export, the export proves nothing (:meth:`Held.is_whole`):

- groups of a whole account hold *only my messages* by default. An export with two senders does not;
- the export of one topic of a forum: all its messages are replies, and it creates one topic at most;
- pages of HTML name no type of the chat, so they are taken for a group.

Exports limited by dates have all messages between the first and the last one that they hold, so they need not
be recognised: absence is proved strictly between these two only, by id and by time.
"""

from __future__ import annotations

import struct
import zlib
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute

#: Stubs of these functions do not know arrays whose type they cannot see.
pc: Any = pyarrow.compute
#: Ids that are compressed together; the rest waits uncompressed until the export ends.
_CHUNK = 16_384
#: Number of ids and of compressed bytes, before each chunk.
_HEAD = struct.Struct("<II")
_PERSONAL = {"personal_chat", "bot_chat", "saved_messages"}
_CHANNELS = {"public_channel", "private_channel"}
_GROUPS = {"private_group", "private_supergroup", "public_supergroup"}


class Span(NamedTuple):
    """The first and the last of some times or ids; null if there are none."""

    first: Any = None
    last: Any = None

    def extended(self, values: pa.Array[Any]) -> Span:
        """Return the span that has these values, too."""
        found = pc.min_max(values).as_py()
        if found["min"] is None:
            return self
        if self.first is None:
            return Span(found["min"], found["max"])
        return Span(min(self.first, found["min"]), max(self.last, found["max"]))


class Held:
    """The messages of one chat in one export, noted batch by batch."""

    def __init__(self) -> None:
        """Begin without messages."""
        self._chunks: list[bytes] = []
        self._waiting: list[pa.Array[Any]] = [pa.array([], pa.int64())]
        self._ids, self._instants, self._clocks = Span(), Span(), Span()
        self._all_certain = True
        self._latest = 0
        self._senders: set[str] = set()
        self._has_unanswered = False
        self._topics = 0
        #: Set if messages were left out.
        self.is_filtered = False

    def note(self, rows: pa.RecordBatch) -> None:
        """Add messages of the chat, in the schema MESSAGES."""
        ids = rows["message_id"]
        self._waiting.append(ids)
        if sum(map(len, self._waiting)) >= _CHUNK:
            self._compress()
        if pc.min(ids).as_py() <= 0:  # of a group before it became a supergroup: counted per account
            rows = rows.filter(pc.greater(ids, 0))
        self._ids = self._ids.extended(rows["message_id"])
        self._instants = self._instants.extended(rows["sent_at"])
        self._clocks = self._clocks.extended(rows["sent_local"])
        self._all_certain &= rows["sent_at"].null_count <= rows["sent_local"].null_count
        self._latest = max(self._latest, int((pc.max(rows["revision"]).as_py() or "0")[:12]))
        self._note_signs(rows)

    def _note_signs(self, rows: pa.RecordBatch) -> None:
        if rows["action"].null_count < len(rows):
            self._topics += pc.sum(pc.equal(rows["action"], "topic_created")).as_py() or 0
        if len(self._senders) > 1 and self._has_unanswered:
            return
        written = rows.filter(pc.equal(rows["type"], "message"))
        named = (
            written["sender_id"] if written["sender_id"].null_count < len(written) else written["sender_name"]
        )
        self._senders.update(pc.unique(named.drop_null()).to_pylist()[:2])
        self._has_unanswered |= written["reply_to_message_id"].null_count > 0

    def _compress(self) -> None:
        ids = pa.concat_arrays(self._waiting)
        whole = len(ids) // _CHUNK * _CHUNK
        self._chunks += (_packed(ids.slice(start, _CHUNK)) for start in range(0, whole, _CHUNK))
        self._waiting = [ids.slice(whole)]

    def is_whole(self, kind: str | None, form: str, *, of_account: bool) -> bool:
        """Return whether no message is missing between the first and the last one, as far as it shows.

        ``kind`` is the chat's type. ``of_account``: the chat is one of those of a whole account.
        """
        if self.is_filtered:
            return False
        several = len(self._senders) > 1
        if form == "json" and kind in _PERSONAL:
            return True
        if form == "json" and kind in _CHANNELS:
            return several or not of_account
        return several and self._has_unanswered and (form == "html" or kind in _GROUPS)

    def columns(self) -> dict[str, Any]:
        """Return the columns of the schema CHATS that this class provides, but for ``whole``."""
        rest = pa.concat_arrays(self._waiting)
        ids = b"".join([*self._chunks, *([_packed(rest)] if len(rest) else [])])
        spans: dict[str, int | datetime | None] = {
            "first_id": self._ids.first,
            "last_id": self._ids.last,
            "first_at": self._instants.first if self._all_certain else None,
            "last_at": self._instants.last if self._all_certain else None,
            "first_local": self._clocks.first,
            "last_local": self._clocks.last,
        }
        return spans | {"ids": ids, "latest": self._latest, "topics": self._topics}

    def __repr__(self) -> str:
        """Return what distinguishes it from others, the ids as a checksum."""
        columns = self.columns()
        signs = len(self._senders) > 1, self._has_unanswered, self.is_filtered
        return f"Held({zlib.crc32(columns.pop('ids'))}, {columns}, {signs})"


def _packed(ids: pa.Array[Any]) -> bytes:
    steps = pa.concat_arrays([ids.slice(0, 1), pc.pairwise_diff(ids).slice(1)])
    offset, size = 8 * steps.offset, 8 * len(steps)
    packed = pa.compress(steps.buffers()[1].slice(offset, size), "zstd", asbytes=True)
    return _HEAD.pack(len(steps), len(packed)) + packed


def unpacked(ids: bytes | memoryview) -> pa.Array[Any]:
    """Return the ids of the column ``ids``, each once, in order."""
    chunks = [pa.array([], pa.int64())]
    at = 0
    while at < len(ids):
        count, size = _HEAD.unpack_from(ids, at)
        at += _HEAD.size
        steps = pa.decompress(ids[at : at + size], 8 * count, "zstd")
        chunks.append(pc.cumulative_sum(pa.Array.from_buffers(pa.int64(), count, [None, steps])))
        at += size
    found = pa.concat_arrays(chunks)
    if len(found) > 1 and pc.min(pc.pairwise_diff(found)).as_py() <= 0:
        found = pc.unique(found).sort()
    return found
