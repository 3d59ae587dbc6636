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
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute

#: Stubs of these functions do not know arrays whose type they cannot see.
pc: Any = pyarrow.compute
#: A chunk of ids that are compressed together begins at each multiple of this: so exports of one chat share
#: all chunks but those in which a message is missing or new. Some 4,096 ids, however dense they are.
_BOUNDARY = 4096
#: Ids that wait uncompressed until the end of a chunk, or of the export.
_WAITING = 16_384
#: For fewer ids Arrow's functions take longer to call than Python's to run.
_FEW = 200
#: Number of ids and of compressed bytes, before each chunk.
_HEAD = struct.Struct("<II")
#: Differences of ids wrap around, as Arrow's do.
_WORD = 2**64 - 1
#: The fields of _Part but for the first one, in order.
_AGGREGATES: Any = [
    *(("id", "min"), ("id", "max"), ("at", "min"), ("at", "max"), ("local", "min"), ("local", "max")),
    *(("at", "count"), ("local", "count"), ("latest", "max"), ("topic", "sum"), ("unanswered", "sum")),
    *(("sender", "min"), ("sender", "max")),
]
_PERSONAL = {"personal_chat", "bot_chat", "saved_messages"}
_CHANNELS = {"public_channel", "private_channel"}
_GROUPS = {"private_group", "private_supergroup", "public_supergroup"}


class _Part(NamedTuple):
    """What some rows of one chat hold; times in microseconds, nulls where no row has a value."""

    place: int
    first_id: int | None
    last_id: int | None
    first_at: int | None
    last_at: int | None
    first_local: int | None
    last_local: int | None
    certain: int
    timed: int
    latest: int | None
    topics: int | None
    unanswered: int | None
    one_sender: int | None
    another_sender: int | None


class _Span(NamedTuple):
    """The first and the last of some times or ids; null if there are none."""

    first: int | None = None
    last: int | None = None

    def extended(self, first: int | None, last: int | None) -> _Span:
        if self.first is None or self.last is None or first is None or last is None:
            return self if first is None else _Span(first, last)
        return _Span(min(self.first, first), max(self.last, last))


class Held:
    """The messages of one chat in one export, noted batch by batch."""

    def __init__(self) -> None:
        """Begin without messages."""
        self._chunks: list[bytes] = []
        self._waiting: list[pa.Array[Any]] = []
        self._count = 0
        self._ids, self._instants, self._clocks = _Span(), _Span(), _Span()
        self._all_certain = True
        self._latest = 0
        #: At most a few: what counts is whether there are two.
        self.senders: set[str] = set()
        self._has_unanswered = False
        self._topics = 0
        #: Set if messages were left out.
        self.is_filtered = False

    def add(self, ids: pa.Array[Any], part: _Part, senders: Sequence[str]) -> None:
        """Add messages with these ids, and what was found in them (:func:`note`)."""
        self._waiting.append(ids)
        self._count += len(ids)
        if self._count >= _WAITING:
            self._compress()
        self._ids = self._ids.extended(part.first_id, part.last_id)
        self._instants = self._instants.extended(part.first_at, part.last_at)
        self._clocks = self._clocks.extended(part.first_local, part.last_local)
        self._all_certain &= part.certain >= part.timed
        self._latest = max(self._latest, part.latest or 0)
        self._topics += part.topics or 0
        self._has_unanswered |= bool(part.unanswered)
        if len(self.senders) < 2:
            self.senders.update(senders)

    def _compress(self) -> None:
        *chunks, rest = _cut(pa.concat_arrays(self._waiting))
        if not chunks and len(rest) > 2 * _WAITING:
            chunks, rest = [rest], rest.slice(0, 0)
        self._chunks += map(_packed, chunks)
        self._waiting, self._count = [rest], len(rest)

    def is_whole(self, kind: str | None, form: str, *, of_account: bool) -> bool:
        """Return whether no message is missing between the first and the last one, as far as it shows.

        ``kind`` is the chat's type. ``of_account``: the chat is one of those of a whole account.
        """
        if self.is_filtered:
            return False
        several = len(self.senders) > 1
        if form == "json" and kind in _PERSONAL:
            return True
        if form == "json" and kind in _CHANNELS:
            return several or not of_account
        return several and self._has_unanswered and (form == "html" or kind in _GROUPS)

    def columns(self) -> dict[str, Any]:
        """Return the columns of the schema CHATS that this class provides, but for ``whole``."""
        rest = map(_packed, _cut(pa.concat_arrays(self._waiting))) if self._count else []
        spans = {
            "first_id": self._ids.first,
            "last_id": self._ids.last,
            "first_at": self._instants.first if self._all_certain else None,
            "last_at": self._instants.last if self._all_certain else None,
            "first_local": self._clocks.first,
            "last_local": self._clocks.last,
        }
        return spans | {
            "ids": b"".join([*self._chunks, *rest]),
            "latest": self._latest,
            "topics": self._topics,
        }

    def __repr__(self) -> str:
        """Return what distinguishes it from others, the ids as a checksum."""
        columns = self.columns()
        signs = len(self.senders) > 1, self._has_unanswered, self.is_filtered
        return f"Held({zlib.crc32(columns.pop('ids'))}, {columns}, {signs})"


def note(rows: pa.RecordBatch, parts: Sequence[tuple[Held, int]]) -> None:
    """Add rows of the schema MESSAGES to what their chats hold: so many rows to each, one after the other.

    All chats of a batch are counted at once: an account has thousands of short ones.
    """
    ids = rows["message_id"]
    starts = list(accumulate((count for _, count in parts), initial=0))
    all_known = all(len(held.senders) > 1 for held, _ in parts)
    senders = _senders(rows.slice(0, 0) if all_known else rows)
    names = senders.dictionary.to_pylist()
    codes = pa.nulls(len(rows), pa.int32()) if all_known else senders.indices
    for part in _parts(rows, [count for _, count in parts], codes):
        held, count = parts[part.place]
        found = {part.one_sender, part.another_sender} - {None}
        held.add(ids.slice(starts[part.place], count), part, [names[place] for place in found])


def _senders(rows: pa.RecordBatch) -> Any:
    """Return the senders of messages, not of service messages: ids, or names where none has an id."""
    named = rows["sender_id"] if rows["sender_id"].null_count < len(rows) else rows["sender_name"]
    return pc.if_else(pc.equal(rows["type"], "message"), named, None).dictionary_encode()


def _parts(rows: pa.RecordBatch, counts: Sequence[int], senders: pa.Array[Any]) -> Iterator[_Part]:
    ids, at, local = (rows[name].cast(pa.int64()) for name in ("message_id", "sent_at", "sent_local"))
    if pc.min(ids).as_py() <= 0:  # of a group before it became a supergroup: counted per account
        kept = pc.greater(ids, 0)
        ids, at, local = (pc.if_else(kept, values, None) for values in (ids, at, local))
    columns = {
        "place": pa.concat_arrays([pa.repeat(place, count) for place, count in enumerate(counts)]),
        "id": ids,
        "at": at,
        "local": local,
        "latest": _seconds(rows["revision"], one=len(counts) == 1),
        "topic": pc.equal(rows["action"], "topic_created"),
        "unanswered": pc.and_(pc.equal(rows["type"], "message"), pc.is_null(rows["reply_to_message_id"])),
        "sender": senders,
    }
    if len(counts) == 1:  # without a table, whose functions take as long to import as hundreds of messages
        yield _Part(0, *(getattr(pc, how)(columns[name]).as_py() for name, how in _AGGREGATES))
        return
    found = pa.table(columns).group_by("place", use_threads=False).aggregate(_AGGREGATES)
    for part in zip(*(column.to_pylist() for column in found.columns), strict=True):
        yield _Part(*part)


def _seconds(revisions: pa.Array[Any], *, one: bool) -> Any:
    """Return the seconds that revisions begin with; for ``one`` chat, the last of them in each row."""
    if one:
        return pa.repeat(int(pc.max(revisions).as_py()[:12]), len(revisions))
    return pc.utf8_slice_codeunits(revisions, 0, 12).cast(pa.int64())


def _cut(ids: pa.Array[Any]) -> list[pa.Array[Any]]:
    """Return the ids in chunks."""
    starts = pc.indices_nonzero(pc.equal(pc.bit_wise_and(ids, _BOUNDARY - 1), 0)).to_pylist()
    edges = [0, *(start for start in starts if start), len(ids)]
    return [ids.slice(start, end - start) for start, end in pairwise(edges)]


def _packed(ids: pa.Array[Any]) -> bytes:
    if len(ids) < _FEW:
        numbers: list[Any] = ids.to_pylist()
        differences = (after - before & _WORD for before, after in pairwise([0, *numbers]))
        steps = array("Q", differences).tobytes()
    else:
        found = pa.concat_arrays([ids.slice(0, 1), pc.pairwise_diff(ids).slice(1)])
        steps = found.buffers()[1].slice(8 * found.offset, 8 * len(found))
    packed = pa.compress(steps, "zstd", asbytes=True)
    return _HEAD.pack(len(ids), len(packed)) + packed


def chunks_of(ids: bytes | memoryview) -> list[bytes]:
    """Return the chunks of the column ``ids``; equal chunks hold equal ids."""
    found, at = [], 0
    while at < len(ids):
        end = at + _HEAD.size + _HEAD.unpack_from(ids, at)[1]
        found.append(bytes(ids[at:end]))
        at = end
    return found


def unpacked(chunks: Sequence[bytes]) -> pa.Array[Any]:
    """Return the ids of these chunks, each once, in order."""
    arrays = [pa.array([], pa.int64())]
    for chunk in chunks:
        count, _ = _HEAD.unpack_from(chunk)
        steps = pa.decompress(chunk[_HEAD.size :], 8 * count, "zstd")
        arrays.append(pc.cumulative_sum(pa.Array.from_buffers(pa.int64(), count, [None, steps])))
    found = pa.concat_arrays(arrays)
    if len(found) > 1 and pc.min(pc.pairwise_diff(found)).as_py() <= 0:
        found = pc.unique(found).sort()
    return found
