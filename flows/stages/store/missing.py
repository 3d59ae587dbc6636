"""Mark messages that a later export of their chat no longer has.

Each export's ids are kept (``chat_exports``), so the marks are a function of the set of exports: the order of
loading has no influence, and storing a source file again replaces the marks that it had set. README.md of
this package says when the absence of a message proves that it is missing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

import msgspec
import pyarrow as pa
import pyarrow.compute

from flows.exports.held import chunks_of, unpacked
from flows.ledger.connection import Connection
from flows.ledger.named_sql import load as load_sql
from flows.stages.store.joining import Chat

#: Stubs of these functions do not know arrays whose type they cannot see.
pc: Any = pyarrow.compute
Ids: TypeAlias = "pa.Array[Any]"
#: Wall clocks of two zones, UTC-12 and UTC+14, are at most so many seconds apart.
_MOST_APART = 26 * 3600

sql = load_sql("missing.sql", as_dicts=False)


class _Export(NamedTuple):
    """What one export holds of a chat; times are in seconds, those of a wall clock as if it showed UTC."""

    chat: str
    chat_key: str
    source_id: int
    position: int
    is_html: bool
    messages: int
    whole: bool
    topics: int
    first_id: int | None
    last_id: int | None
    first_at: float | None
    last_at: float | None
    first_local: float | None
    last_local: float | None


class _Sent(NamedTuple):
    """When a message was sent, in seconds as in _Export."""

    is_message: bool
    at: float | None
    local: float | None


def record(connection: Connection, chats: Sequence[Chat], earlier: Sequence[int]) -> None:
    """Record the ids that these exports hold, and delete those of their sources and of the sources
    ``earlier``."""
    found = [chat for chat in chats if chat["source_id"]]
    sources = {chat["source_id"] for chat in found}
    sql.delete_exports(connection, sources=sorted(sources.union(earlier)))
    if not found:
        return
    rows, position = [], defaultdict[int, int](int)
    for chat in found:
        position[chat["source_id"]] += 1
        rows.append(_row(chat, position[chat["source_id"]]))
    ids = [chat["held"]["ids"] for chat in found]
    sql.add_exports(connection, exports=msgspec.json.encode(rows).decode(), ids=ids)


def _row(chat: Chat, position: int) -> dict[str, Any]:
    held = {name: value for name, value in chat["held"].items() if name != "ids"}
    return held | {
        **{name: chat[name] for name in ("chat_key", "source_id", "form", "messages")},
        "position": position,
        "whole": bool(held["whole"]),
        "topics": held["topics"] or 0,
        "latest": held["latest"] or 0,
    }


def mark(connection: Connection, chat_keys: set[str]) -> None:
    """Compute again which messages of these chats, and of those joined with them, are missing."""
    keys = sql.members_of(connection, chat_keys=sorted(chat_keys))
    marks: list[tuple[str, int, int]] = []
    rows = (_Export(*row[: len(_Export._fields)]) for row in sql.exports_of(connection, chat_keys=keys))
    for chat, exports in groupby(list(rows), key=lambda export: export.chat):
        marks += _missing(connection, chat, list(exports))
    columns = {
        "chats": [chat for chat, _, _ in marks],
        "message_ids": [message for _, message, _ in marks],
        "sources": [source for _, _, source in marks],
    }
    sql.delete_marks(connection, chat_keys=keys, **columns)
    if marks:
        sql.add_marks(connection, **columns)


def _missing(connection: Connection, chat: str, exports: list[_Export]) -> Iterator[tuple[str, int, int]]:
    """Yield the missing messages of a chat, each with the source file since which it is missing."""
    proving = _proving(exports)
    last_seen, everything = _last_seen(connection, exports, proving)
    if not last_seen:
        return
    proving = [place for place in proving if _holds_most(exports[place], everything)]
    sent = {
        message: _Sent(*rest)
        for message, *rest in sql.times_of(connection, chat_key=chat, message_ids=list(last_seen))
    }
    for message in sorted(sent):
        later = (exports[place] for place in proving if place > last_seen[message])
        if export := next((one for one in later if _proves(one, message, sent[message])), None):
            yield chat, message, export.source_id


def _proving(exports: list[_Export]) -> list[int]:
    """Return the places of the exports that may prove the absence of a message.

    An export of a forum counts if it has more topics than an export of one topic can have.
    """
    is_forum = any(export.topics for export in exports)
    return [
        place
        for place, one in enumerate(exports)
        if place and one.whole and one.first_id is not None and (not is_forum or one.topics > 1)
    ]


def _last_seen(
    connection: Connection, exports: list[_Export], proving: list[int]
) -> tuple[dict[int, int], Ids]:
    """Return the place of the last export that has a message, by its id, and all ids.

    Only of messages that an export behind that place covers; the newest export is read first.
    """
    found: dict[int, int] = {}
    known: set[bytes] = set()
    seen: Ids = pa.array([], pa.int64())
    for place in reversed(range(len(exports) if proving else 0)):
        one = exports[place]
        held = sql.ids_of(connection, chat_key=one.chat_key, source_id=one.source_id, position=one.position)
        changed = [chunk for chunk in chunks_of(held) if chunk not in known]
        known.update(changed)
        new = _without(unpacked(changed), seen)
        seen = pa.concat_arrays([seen, new])
        for other in (exports[other] for other in proving if other > place):
            covered: list[Any] = new.filter(_inside(new, other)).to_pylist()
            found.update(dict.fromkeys(covered, place))
    return found, seen


def _without(ids: Ids, seen: Ids) -> Ids:
    """Return those of the ids, which are in order, that were not seen."""
    if not len(ids) or not len(seen):
        return ids
    near = seen.filter(pc.and_(pc.greater_equal(seen, ids[0]), pc.less_equal(seen, ids[-1])))
    return ids.filter(pc.invert(pc.is_in(ids, value_set=near)))


def _inside(ids: Ids, export: _Export) -> Any:
    """Return for each id whether it is strictly between two ids that the export holds."""
    return pc.and_(pc.greater(ids, export.first_id), pc.less(ids, export.last_id))


def _holds_most(export: _Export, everything: Ids) -> bool:
    """Return whether the export has at least half of the messages that are known in its range of ids."""
    return bool(2 * export.messages >= (pc.sum(_inside(everything, export)).as_py() or 0))


def _proves(export: _Export, message: int, sent: _Sent) -> bool:
    """Return whether the message, which the export lacks, is strictly between messages that it has."""
    if not (export.first_id or 0) < message < (export.last_id or 0):
        return False
    if export.is_html and not sent.is_message:
        return False
    if sent.at is not None and export.first_at is not None and export.last_at is not None:
        return export.first_at < sent.at < export.last_at
    if sent.local is None or export.first_local is None or export.last_local is None:
        return False
    return export.first_local + _MOST_APART < sent.local < export.last_local - _MOST_APART
