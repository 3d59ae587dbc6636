"""Compare HTML with the JSON of the same source file, and leave out the messages that both have.

The forms of one chat have the same ids, texts and wall-clock times. If the exports were made in different
time zones, the times differ by a multiple of a quarter of an hour. If a message was edited between the
exports, the texts differ: both versions are kept, and store orders them.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute

#: Stubs of these functions do not know arrays whose type they cannot see.
pc: Any = pyarrow.compute
_QUARTER = 900
#: Offsets of UTC reach from -12 to +14 hours.
_MOST_APART = 26 * 3600


@dataclass
class _Chat:
    """The messages of a JSON chat, of 20 bytes each: ids, local seconds and checksums of the texts."""

    ids: list[Any] = field(default_factory=list)
    times: list[Any] = field(default_factory=list)
    texts: list[Any] = field(default_factory=list)
    least: int = 1 << 63
    greatest: int = -(1 << 63)

    def add(self, rows: pa.RecordBatch) -> None:
        ids = rows["message_id"]
        self.ids.append(ids)
        self.times.append(_seconds(rows))
        self.texts.append(_checksums(rows))
        span = pc.min_max(ids).as_py()
        self.least, self.greatest = min(self.least, span["min"]), max(self.greatest, span["max"])

    def shared(self, rows: pa.RecordBatch) -> _Shared:
        """Compare rows of HTML with the messages of the same ids."""
        places = pc.index_in(rows["message_id"], value_set=pa.chunked_array(self.ids).combine_chunks())
        times = pc.take(pa.chunked_array(self.times).combine_chunks(), places)
        apart = pc.abs(pc.subtract(_seconds(rows), times))
        quarters = pc.multiply(pc.divide(apart, _QUARTER), _QUARTER)
        fits = pc.and_(pc.equal(quarters, apart), pc.less_equal(apart, _MOST_APART))
        same = pc.equal(pc.take(pa.chunked_array(self.texts).combine_chunks(), places), _checksums(rows))
        said = pc.equal(rows["type"], "message")
        worded = pc.not_equal(rows["text"], "")
        proof = pc.and_(pc.and_(fits, same), pc.and_(pc.or_(pc.equal(apart, 0), worded), said))
        edited = pc.and_(pc.and_(fits, pc.invert(same)), pc.and_(worded, said))
        proof, edited = (pc.fill_null(one, False) for one in (proof, edited))
        return _Shared(pc.is_valid(places), pc.fill_null(fits, True), proof, edited)


@dataclass
class _Shared:
    """Per row of HTML: whether JSON has its id, whether the times fit, whether it is the same message.

    ``edited``: it is the same message with another text.
    """

    known: Any
    fits: Any
    proof: Any
    edited: Any

    @property
    def differ(self) -> Any:
        return pc.and_(self.known, pc.invert(self.fits))


class Twins:
    """The chats of the JSON in one source file, with which its HTML is compared."""

    def __init__(self) -> None:
        """Begin without chats."""
        self._chats: defaultdict[str, _Chat] = defaultdict(_Chat)

    def note(self, rows: pa.RecordBatch) -> None:
        """Add messages that were read from JSON."""
        for key in pc.unique(rows["chat_key"]).to_pylist():
            self._chats[key].add(rows.filter(pc.equal(rows["chat_key"], key)))

    def may_have(self, first: int | None, last: int | None) -> bool:
        """Return whether a chat has ids in this range; an unknown end counts as within any chat."""
        low, high = (-(1 << 63) if first is None else first), ((1 << 63) if last is None else last)
        return any(chat.least <= high and low <= chat.greatest for chat in self._chats.values())

    def twin_of(self, samples: Iterable[pa.RecordBatch]) -> str | None:
        """Return the key of the chat that shares a message with the samples and contradicts none."""
        possible = set(self._chats)
        for rows in samples:
            for key in sorted(possible):
                shared = self._chats[key].shared(rows)
                if pc.any(shared.differ).as_py():
                    possible.discard(key)
                elif pc.any(shared.proof).as_py():
                    return key
        return None

    def without_known(self, key: str, rows: pa.RecordBatch) -> tuple[pa.RecordBatch, int]:
        """Return the rows that the chat ``key`` does not have, and how many contradict its message.

        A message with another text is one that the chat does not have.
        """
        shared = self._chats[key].shared(rows)
        new = pc.or_(pc.invert(shared.known), shared.edited)
        return rows.filter(new), pc.sum(shared.differ).as_py() or 0


def _seconds(rows: pa.RecordBatch) -> Any:
    return pc.divide(rows["sent_local"].cast(pa.int64()), 1_000_000)


def _checksums(rows: pa.RecordBatch) -> Any:
    """Return checksums of the texts without white space, of which HTML does not show all."""
    texts: list[Any] = rows["text"].to_pylist()
    return pa.array([zlib.crc32(" ".join(text.split()).encode()) for text in texts], pa.uint32())
