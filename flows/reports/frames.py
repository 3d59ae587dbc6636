"""The tables as pandas data frames.

    from flows.reports import frames
    frames.messages(chat="News", since="2026-01-01", columns=["sent_at", "sender_name", "text"])

Every function returns one frame with one row per row of the table and the columns that
:mod:`flows.tables.relations` lists, or those of ``columns`` in that order. With ``chunksize`` it yields
frames of about so many rows instead, and memory does not grow with their number.

Types are those of pandas 3: texts are ``str`` (held by Arrow), whole numbers ``Int64`` (they may be missing),
instants ``datetime64[us, UTC]``, the exporter's wall clock ``datetime64[us]``, and names that repeat are
categoricals, whose categories are those that occur in the frame or chunk. JSON columns hold texts.

Rows are read through the engine of the block ``SqlAlchemyConnector``: by default that of the installation in
``TDP_HOME`` (or ``TDP_DATABASE_URL``), whether its Prefect server runs or not; ``database`` may be another
one, such as ``SqlAlchemyConnector.load("tdp-postgres")``. Raises ChatUnknown for a chat that is not found or
not unique, DatabaseUnavailable if PostgreSQL does not respond, ServiceFailed if no services run,
ValueError for an unknown column, a chunk of no rows, and a period that ends before it begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, cast, overload

import pandas as pd
import psycopg2
import pyarrow as pa
import pyarrow.types as kind
from sqlalchemy.exc import OperationalError

from blocks import connector
from flows.errors import DatabaseUnavailable
from flows.ledger.connection import Connection
from flows.reports.text import short
from flows.services import ensure_ledger
from flows.settings import Settings
from flows.tables.choosing import chat_keys
from flows.tables.copying import batches, query
from flows.tables.orders import Choice, What
from flows.tables.relations import schema
from flows.tables.sessions import prepare

if TYPE_CHECKING:
    from prefect_sqlalchemy import SqlAlchemyConnector

When = str | date | None
Names = str | int | Sequence[str | int] | None
#: Columns whose values repeat so often that a code for each is smaller and faster to group by.
_CATEGORIES = {
    "chat_key", "chat_name", "type", "action", "sender_id", "sender_name", "form", "account",
    "stage", "outcome", "host",
}  # fmt: skip
_CODES = pa.dictionary(pa.int32(), pa.string())


@overload
def messages(
    chat: Names = None,
    since: When = None,
    until: When = None,
    columns: Sequence[str] | None = None,
    *,
    chunksize: None = None,
    database: SqlAlchemyConnector | None = None,
) -> pd.DataFrame: ...
@overload
def messages(
    chat: Names = None,
    since: When = None,
    until: When = None,
    columns: Sequence[str] | None = None,
    *,
    chunksize: int,
    database: SqlAlchemyConnector | None = None,
) -> Iterator[pd.DataFrame]: ...
def messages(
    chat: Names = None,
    since: When = None,
    until: When = None,
    columns: Sequence[str] | None = None,
    *,
    chunksize: int | None = None,
    database: SqlAlchemyConnector | None = None,
) -> pd.DataFrame | Iterator[pd.DataFrame]:
    """Return the messages (one row each, 23 columns) of these chats, sent from ``since`` to before ``until``.

    ``chat`` is a key, an id, a name or a part of one, or several of them; an empty list has no messages. A
    time without a zone is in UTC, and a date is its first moment.
    """
    if chunksize is not None and chunksize < 1:
        raise ValueError(f"chunksize is {chunksize}: name the rows of a chunk, at least 1")
    found = _chunks(What.messages, chat, since, until, columns, database, chunksize)
    return next(found) if chunksize is None else found


def chats(
    chat: Names = None,
    columns: Sequence[str] | None = None,
    *,
    database: SqlAlchemyConnector | None = None,
) -> pd.DataFrame:
    """Return the chats (one row each, 8 columns), by name."""
    return next(_chunks(What.chats, chat, None, None, columns, database, None))


def senders(
    chat: Names = None,
    since: When = None,
    until: When = None,
    *,
    database: SqlAlchemyConnector | None = None,
) -> pd.DataFrame:
    """Return who wrote how many messages (one row per sender, 6 columns), service messages aside."""
    return next(_chunks(What.senders, chat, since, until, None, database, None))


def stage_runs(
    since: When = None, until: When = None, *, database: SqlAlchemyConnector | None = None
) -> pd.DataFrame:
    """Return every attempt at a stage of a batch (one row each, 18 columns), in the order of queueing."""
    return next(_chunks(What.stage_runs, None, since, until, None, database, None))


def timings(
    since: When = None, until: When = None, *, database: SqlAlchemyConnector | None = None
) -> pd.DataFrame:
    """Return one row per batch and stage (10 columns): attempts, and their waits and durations in seconds."""
    return next(_chunks(What.timings, None, since, until, None, database, None))


def _chunks(
    what: What,
    chat: Names,
    since: When,
    until: When,
    columns: Sequence[str] | None,
    database: SqlAlchemyConnector | None,
    size: int | None,
) -> Iterator[pd.DataFrame]:
    """Yield frames of at least ``size`` rows but for the last one; None: one frame with all rows."""
    wanted = schema(what, [columns] if isinstance(columns, str) else columns)
    begin, end = _time(since), _time(until)
    if begin and end and begin > end:
        raise ValueError(f"since {begin} is later than until {end}")
    coded = pa.schema([(field.name, _CODES if field.name in _CATEGORIES else field.type) for field in wanted])
    with _connection(database) as connection:
        prepare(connection, None)
        choice = Choice(_keys(connection, chat), begin, end)
        collected: list[pa.RecordBatch] = []
        for batch in batches(connection, query(what, coded.names), choice, coded):
            collected.append(batch)
            if size and sum(each.num_rows for each in collected) >= size:
                yield _frame(collected, coded)
                collected = []
        if collected or not size:
            yield _frame(collected, coded)


@contextmanager
def _connection(database: SqlAlchemyConnector | None) -> Iterator[Connection]:
    """Yield a connection of the block's engine and close it, since its session is changed here."""
    if database is None:
        database = connector(ensure_ledger(Settings()).database)
    try:
        pooled = database.get_engine().raw_connection()
    except (OperationalError, psycopg2.OperationalError) as error:
        raise DatabaseUnavailable(f"{short(str(error), 300)} Is `tdp up` running?") from error
    opened = cast("Connection", pooled.driver_connection)
    pooled.detach()
    try:
        opened.set_session(readonly=True, autocommit=True)
        yield opened
    finally:
        opened.close()


def _frame(found: list[pa.RecordBatch], columns: pa.Schema) -> pd.DataFrame:
    table = pa.Table.from_batches(found, columns).unify_dictionaries()
    return table.to_pandas(types_mapper=lambda each: pd.Int64Dtype() if kind.is_int64(each) else None)


def _keys(connection: Connection, chat: Names) -> Sequence[str] | None:
    """Return the keys of these chats; None for all chats, which an empty list is not."""
    if chat is None:
        return None
    named = [chat] if isinstance(chat, str | int) else chat
    return chat_keys(connection, [str(each) for each in named]) or []


def _time(given: When) -> datetime | None:
    if given is None:
        return None
    time = datetime.fromisoformat(given) if isinstance(given, str) else given
    if not isinstance(time, datetime):
        time = datetime(time.year, time.month, time.day, tzinfo=UTC)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
