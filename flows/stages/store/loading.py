"""Load one batch of Parquet rows into ``chats`` and ``messages``, in one transaction.

The content of the tables depends only on the rows that were loaded, not on their order or on concurrency:

- a chat keeps the greatest revision of each message that its own exports contain, and of each other text that
  the message had;
- chats that are found to be the same are joined; each load decides that again from all rows
  (:mod:`flows.stages.store.joining`);
- when a batch is stored again, its rows replace those that its source files loaded before;
- loads that might join each other's chats wait for each other (:func:`~flows.stages.store.joining.lock`);
  others run concurrently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import msgspec
import psycopg2
import psycopg2.errors
import pyarrow as pa
import pyarrow.compute as pc

from flows.exports.columns import CHATS, HELD, MESSAGES
from flows.ledger.connection import Connection
from flows.ledger.connection import connection as connect
from flows.ledger.named_sql import load as load_sql
from flows.stages.runner.contract import entry_id
from flows.stages.store import missing
from flows.stages.store.copy_rows import ROWS, copy, open_parquet, rows_of
from flows.stages.store.counting import Tally
from flows.stages.store.joining import Chat, Clue, clues, columns, count_joined, join, lock, separate

#: Names of one owner that are compared with titles of HTML.
_OWNER_NAMES = 5
#: The columns of ``chats.parquet`` that every convert program has to write.
_CHATS = pa.schema([column for column in CHATS if column.name not in HELD])

sql = load_sql("store.sql", as_dicts=False)


class Loaded(NamedTuple):
    """The message rows of a load, in total and per source file (by its ledger id).

    ``rows_new`` is the number by which the table grew, ``rows_changed`` the number of messages replaced by a
    greater revision, ``rows_same`` the number of the others: the table has the same or a greater revision.
    """

    counts: dict[str, int]
    by_source: dict[int, dict[str, int]]


def read_chats(directory: Path) -> list[Chat]:
    """Return the rows of ``chats.parquet`` (one per chat and export), each with its ``source_id``.

    ``held`` has what the export holds of the chat; its values are None where that is not known. Raises
    BadInput if columns are missing.
    """
    with open_parquet(directory / "chats.parquet", _CHATS) as file:
        chats = file.read().to_pylist()
    names = _owner_names(directory, {chat["chat_key"] for chat in chats if chat["type"] == "saved_messages"})
    for chat in chats:
        chat["source_id"] = entry_id(chat["source"]) or 0
        chat["held"] = {name: chat.pop(name, None) for name in HELD}
        if found := names.get(chat["chat_key"]):
            chat["owner_names"] = found
    return chats


def _owner_names(directory: Path, saved: set[str]) -> dict[str, list[str]]:
    """Return the names under which the owners of these saved messages wrote them, by the chats' keys."""
    if not saved:
        return {}
    names: dict[str, set[str]] = {}
    with open_parquet(directory / "messages.parquet", MESSAGES) as file:
        for rows in file.iter_batches(ROWS, columns=["chat_key", "sender_id", "sender_name"]):
            kept = rows.filter(pc.is_in(rows["chat_key"], value_set=pa.array(sorted(saved))))
            for key, sender, name in zip(*(column.to_pylist() for column in kept.columns), strict=True):
                if name and (sender is None or key.startswith(f"{sender}@") or key.startswith(f"{sender}~")):
                    names.setdefault(key, set()).add(name)
    return {key: sorted(found)[:_OWNER_NAMES] for key, found in names.items()}


def load(
    url: str,
    directory: Path,
    chats: list[Chat],
    sources: Sequence[int] = (),
    *,
    keep: Collection[int] = (),
    commit: bool = True,
) -> Loaded:
    """Load ``chats`` and ``messages.parquet`` of ``directory``; return counts of the message rows.

    ``sources`` are the ledger ids of the batch's source files. Rows that an earlier store of the batch may
    have loaded are deleted first, in the same transaction, and counted as ``rows_replaced``, except those of
    the sources ``keep``. Without ``commit`` the load is only tried. Raises psycopg2.Error or BadInput;
    nothing is loaded then.
    """
    exports = Counter(chat["chat_key"] for chat in chats)
    with connect(url, application_name="tdp store") as connection:
        try:
            once = {key for key, n in exports.items() if n == 1}
            loaded = _load(connection, directory, chats, once, sources, keep)
        except psycopg2.errors.UniqueViolation:
            # An export has a message twice: loading through the temporary table resolves that.
            connection.rollback()
            loaded = _load(connection, directory, chats, set(), sources, keep)
        sql.mark_unsearched(connection, sources=sorted({chat["source_id"] for chat in chats}))
        if commit:
            connection.commit()
    return loaded


def _load(
    connection: Connection,
    directory: Path,
    chats: list[Chat],
    once: set[str],
    sources: Sequence[int],
    keep: Collection[int],
) -> Loaded:
    """Load in the open transaction. New chats among ``once`` are copied into the table directly."""
    path = directory / "messages.parquet"
    own = {clue for chat in chats for clue in clues(chat)}
    stored: list[int] = sql.stored_before(connection, sources=list(sources))
    earlier = [source for source in stored if source not in keep]
    before = {Clue(*row) for row in sql.chats_of_sources(connection, sources=earlier)} if earlier else set()
    involved = own | {clue for clue in before if clue.clue}
    found = lock(connection, involved)
    keys = {chat["chat_key"] for chat in chats}
    gone = {clue.chat_key for clue in before} - keys
    may_join = any(clue.rank == 2 for clue in found)
    separated, grown = separate(connection, keys | gone) if may_join else (set(), 0)
    replaced = _delete_earlier(connection, earlier, keys | gone) if earlier else 0
    fresh = once & _upsert_chats(connection, chats, earlier)
    sql.add_clues(connection, **columns(own))
    known, tally = keys - fresh, Tally(chats)
    rows, new, changed = _copy_rows(connection, path, fresh, known, tally, twins=bool(known - once))
    grown += new
    if gone:
        sql.drop_chats(connection, chat_keys=sorted(gone))
    touched = keys | gone
    if may_join:
        more, members = join(connection, separated, found)
        grown, touched = grown + more, touched | members
        tally.joined(*count_joined(connection, keys, chats))
    missing.record(connection, chats, earlier)
    if known or gone or may_join:
        missing.mark(connection, touched)
    counts = {"rows_new": grown, "rows_changed": changed, "rows_same": rows - grown - changed}
    return Loaded(counts | ({"rows_replaced": replaced} if earlier else {}), tally.by_source())


def _copy_rows(
    connection: Connection, path: Path, fresh: set[str], known: set[str], tally: Tally, *, twins: bool
) -> tuple[int, int, int]:
    """Copy rows of ``fresh`` chats and merge those of ``known`` ones; return all, new and changed ones."""
    rows = new = changed = 0
    if fresh:
        rows = new = copy(connection, sql.copy_fresh.sql, rows_of(path, pa.array(fresh) if known else None))
        tally.fresh(fresh)
    if known:
        sql.create_loaded(connection)
        rows += copy(connection, sql.copy_loaded.sql, rows_of(path, pa.array(fresh), keep=False))
        merged, changed = _merge(connection, tally, twins=twins)
        new += merged
    return rows, new, changed


def _merge(connection: Connection, tally: Tally, *, twins: bool) -> tuple[int, int]:
    """Merge the loaded rows into the messages; return how many of these are new and how many changed.

    ``twins``: whether a message may have been loaded several times.
    """
    sql.analyze_loaded(connection)
    sql.create_contested(connection)
    contested = sql.contest_twins(connection) if twins else 0
    inserted: list[tuple[int, str, int, int]] = []
    if sql.compare_loaded(connection, stale=sql.stale_sources(connection)):
        sql.analyze_compared(connection)
        sql.delete_older(connection)
        contested += sql.contest_lesser(connection)
        inserted = list(sql.insert_newer(connection))
        tally.merged(inserted)
    if contested:
        sql.analyze_contested(connection)
        sql.keep_versions(connection)
        sql.drop_current_versions(connection)
    return sum(new for _, _, new, _ in inserted), sum(changed for *_, changed in inserted)


def _delete_earlier(connection: Connection, earlier: list[int], keys: set[str]) -> int:
    """Delete the messages that the sources ``earlier`` have loaded before; lock their chats first."""
    sql.lock_chats(connection, chat_keys=sorted(keys))
    sql.delete_versions(connection, sources=earlier)
    return int(sql.delete_of_sources(connection, sources=earlier))


def _upsert_chats(connection: Connection, chats: list[Chat], earlier: list[int]) -> set[str]:
    """Insert or update the chats, lock them, and return the keys of the inserted ones.

    Rows of chats that came from the sources ``earlier`` are always replaced.
    """
    own = [{name: value for name, value in chat.items() if name != "held"} for chat in chats]
    rows = [
        {**chat, "extra": chat["extra"] and msgspec.Raw(chat["extra"].encode()), "revision": _revision(chat)}
        for chat in own
    ]
    written = sql.upsert_chats(connection, chats=msgspec.json.encode(rows).decode(), earlier=earlier)
    return {key for key, fresh in written if fresh}


def _revision(chat: Chat) -> str:
    """Return a key that orders the exports of one chat: JSON, then named, received last, the longest.

    An export of one topic has the name of the topic.
    """
    content = blake2b(repr(sorted(chat.items())).encode(), digest_size=8).hexdigest()
    extra = msgspec.json.decode(chat["extra"] or "{}", type=dict[str, msgspec.Raw])
    known = f"{chat['form'] == 'json':d}{chat['name'] is not None and 'topic' not in extra:d}"
    return f"{known}-{chat['source_id']:012d}-{chat['messages']:012d}-{content}"
