"""Load one batch of Parquet rows into ``chats`` and ``messages``, in one transaction.

The content of the tables depends only on the rows that were loaded, not on their order or on concurrency:

- a chat keeps the greatest revision of each message that its own exports contain, and of each other text that
  the message had;
- chats that are found to be the same are joined; each load decides that again from all rows
  (:mod:`flows.stages.store.joining`);
- when a batch is stored again, its rows replace those that its source files brought before;
- loads that might join each other's chats wait for each other (:func:`~flows.stages.store.joining.lock`);
  others run concurrently.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import msgspec
import psycopg2
import psycopg2.errors
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pgpq import ArrowToPostgresBinaryEncoder
from pgpq.encoders import StringEncoderBuilder
from pgpq.schema import Jsonb

from flows.errors import BadInput
from flows.exports.columns import CHATS, MESSAGES
from flows.ledger.connection import Connection
from flows.ledger.connection import connection as connect
from flows.ledger.named_sql import load as load_sql
from flows.stages.runner.contract import entry_id
from flows.stages.store.counting import Tally
from flows.stages.store.joining import Chat, Clue, clues, columns, count_joined, join, lock, separate

#: Rows in memory at a time: some 10 MB of text, whatever the size of the file.
_ROWS = 16_384
#: Names of one owner that are compared with titles of HTML.
_OWNER_NAMES = 5
_SOURCE_ID = pa.field("source_id", pa.int64())
#: The columns of COPY: MESSAGES with the ledger id of the source file in place of its name.
STORED = MESSAGES.remove(MESSAGES.get_field_index("source")).append(_SOURCE_ID)
_JSON = {"entities", "media", "reactions", "forward", "service", "extra"}
_ENCODERS = {
    column.name: StringEncoderBuilder.new_with_output(column, Jsonb())
    if column.name in _JSON
    else ArrowToPostgresBinaryEncoder.infer_encoder(column)
    for column in STORED
}

sql = load_sql("store.sql", as_dicts=False)


class Loaded(NamedTuple):
    """What a load did with the message rows, in total and of each source file (by its ledger id).

    ``rows_new`` is the number by which the table grew, ``rows_changed`` the number of messages replaced by a
    greater revision, ``rows_same`` the number of the others: the table has the same or a greater revision.
    """

    counts: dict[str, int]
    by_source: dict[int, dict[str, int]]


def read_chats(directory: Path) -> list[Chat]:
    """Return the rows of ``chats.parquet`` (one per chat and export), each with its ``source_id``.

    Raises BadInput if columns are missing.
    """
    with _parquet(directory / "chats.parquet", CHATS) as file:
        chats = file.read().to_pylist()
    names = _owner_names(directory, {chat["chat_key"] for chat in chats if chat["type"] == "saved_messages"})
    return [
        {**chat, "source_id": entry_id(chat["source"]) or 0, **({"owner_names": found} if found else {})}
        for chat in chats
        for found in [names.get(chat["chat_key"])]
    ]


def _owner_names(directory: Path, saved: set[str]) -> dict[str, list[str]]:
    """Return the names under which the owners of these saved messages wrote them, by the chats' keys."""
    if not saved:
        return {}
    names: dict[str, set[str]] = {}
    with _parquet(directory / "messages.parquet", MESSAGES) as file:
        for rows in file.iter_batches(_ROWS, columns=["chat_key", "sender_id", "sender_name"]):
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
    rows = changed = 0
    if fresh:
        rows = _copy(connection, sql.copy_fresh.sql, _rows(path, pa.array(fresh) if known else None))
        grown += rows
        tally.fresh(fresh)
    if known:
        sql.create_loaded(connection)
        rows += _copy(connection, sql.copy_loaded.sql, _rows(path, pa.array(fresh), keep=False))
        new, changed = _merge(connection, tally, twins=bool(known - once))
        grown += new
    if gone:
        sql.drop_chats(connection, chat_keys=sorted(gone))
    if may_join:
        grown += join(connection, separated, found)
        tally.joined(*count_joined(connection, keys, chats))
    counts = {"rows_new": grown, "rows_changed": changed, "rows_same": rows - grown - changed}
    return Loaded(counts | ({"rows_replaced": replaced} if earlier else {}), tally.by_source())


def _merge(connection: Connection, tally: Tally, *, twins: bool) -> tuple[int, int]:
    """Merge the loaded rows into the messages; return how many of these are new and how many changed.

    ``twins``: whether a message may have been loaded several times.
    """
    sql.analyze_loaded(connection)
    sql.create_contested(connection)
    contested = sql.contest_twins(connection) if twins else 0
    if sql.compare_loaded(connection, stale=sql.stale_sources(connection)):
        sql.analyze_compared(connection)
        sql.delete_older(connection)
        contested += sql.contest_lesser(connection)
    inserted: list[tuple[int, str, int, int]] = list(sql.insert_newer(connection))
    tally.merged(inserted)
    if contested:
        sql.analyze_contested(connection)
        sql.keep_versions(connection)
        sql.drop_current_versions(connection)
    return sum(new for _, _, new, _ in inserted), sum(changed for *_, changed in inserted)


def _delete_earlier(connection: Connection, earlier: list[int], keys: set[str]) -> int:
    """Delete the messages that the sources ``earlier`` brought before; lock their chats first."""
    sql.lock_chats(connection, chat_keys=sorted(keys))
    sql.delete_versions(connection, sources=earlier)
    return int(sql.delete_of_sources(connection, sources=earlier))


def _upsert_chats(connection: Connection, chats: list[Chat], earlier: list[int]) -> set[str]:
    """Insert or update the chats, lock them, and return the keys of the inserted ones.

    Rows of chats that came from the sources ``earlier`` are always replaced.
    """
    rows = [
        {**chat, "extra": chat["extra"] and msgspec.Raw(chat["extra"].encode()), "revision": _revision(chat)}
        for chat in chats
    ]
    written = sql.upsert_chats(connection, chats=msgspec.json.encode(rows).decode(), earlier=earlier)
    return {key for key, fresh in written if fresh}


def _revision(chat: Chat) -> str:
    """Return a key that orders the exports of one chat: JSON, then named, received last, the longest."""
    content = blake2b(repr(sorted(chat.items())).encode(), digest_size=8).hexdigest()
    known = f"{chat['form'] == 'json':d}{chat['name'] is not None:d}"
    return f"{known}-{chat['source_id']:012d}-{chat['messages']:012d}-{content}"


def _rows(path: Path, keys: pa.StringArray | None, *, keep: bool = True) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the chats ``keys`` in pieces; of all other chats if not ``keep``, of all if None."""
    with _parquet(path, MESSAGES) as file:
        for piece in file.iter_batches(_ROWS, columns=MESSAGES.names):
            rows = piece.select(MESSAGES.names).cast(MESSAGES)
            if keys:
                chosen = pc.is_in(rows["chat_key"], value_set=keys)
                rows = rows.filter(chosen if keep else pc.invert(chosen))
            if rows.num_rows:
                yield rows


def _parquet(path: Path, schema: pa.Schema) -> pq.ParquetFile:
    file = pq.ParquetFile(path)
    if missing := set(schema.names) - set(file.schema_arrow.names):
        raise BadInput(f"{path.name} lacks the columns {', '.join(sorted(missing))}")
    return file


def _copy(connection: Connection, statement: str, pieces: Iterator[pa.RecordBatch]) -> int:
    """COPY the pieces and return the number of rows."""
    file = _CopyData(pieces)
    with connection.cursor() as cursor:
        try:
            cursor.copy_expert(statement, file)
        except psycopg2.errors.QueryCanceled as cancelled:
            # COPY raises this for errors of _CopyData, too.
            raise file.error or cancelled from None
        return cursor.rowcount


class _CopyData(io.RawIOBase):
    """The file that COPY reads: each read returns the next piece in COPY's binary format.

    In binary format PostgreSQL parses nothing but JSON: compared with CSV into the table with its indexes, it
    takes a seventh less of CPU time, and this process a third less.
    """

    error: Exception | None = None

    def __init__(self, pieces: Iterator[pa.RecordBatch]) -> None:
        self._chunks = _prefetched(_encoded(pieces))

    def read(self, _size: int = -1, /) -> bytes:
        try:
            return next(self._chunks, b"")
        except Exception as error:
            self.error = error
            raise


def _encoded(pieces: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
    encoder = ArrowToPostgresBinaryEncoder.new_with_encoders(STORED, _ENCODERS)
    yield encoder.write_header()
    for piece in pieces:
        if chunk := encoder.write_batch(_as_stored(piece)):  # small batches are buffered
            yield chunk
    yield encoder.finish()


def _prefetched(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the chunks; a thread encodes each while PostgreSQL loads the one before it."""
    with ThreadPoolExecutor(1, "encode") as thread:
        following = thread.submit(next, chunks, b"")
        while chunk := following.result():
            following = thread.submit(next, chunks, b"")
            yield chunk


def _as_stored(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Return the rows with the ledger id of their source file in place of its name."""
    names = rows["source"].dictionary_encode()
    ids = pa.array([entry_id(str(name)) or 0 for name in names.dictionary.to_pylist()], pa.int64())
    return rows.set_column(rows.schema.get_field_index("source"), _SOURCE_ID, ids.take(names.indices))
