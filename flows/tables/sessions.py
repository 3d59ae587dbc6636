"""Sessions that only read: in UTC, and with a time-out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2.errors
from psycopg2 import sql

from flows.errors import QueryTimedOut
from flows.ledger.connection import Connection

_READ = """
SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET statement_timeout = {timeout};
SET default_transaction_read_only = on
"""


def prepare(connection: Connection, timeout: float | None) -> None:
    """Let the session read in UTC; its queries end after ``timeout`` seconds (None: never)."""
    milliseconds = sql.Literal(max(1, round(1000 * timeout)) if timeout else 0)
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL(_READ).format(timeout=milliseconds))


@contextmanager
def timed_out(timeout: float | None) -> Iterator[None]:
    """Raise QueryTimedOut for a query that PostgreSQL has ended after ``timeout`` seconds."""
    try:
        yield
    except psycopg2.errors.QueryCanceled as error:
        limit = f"{timeout:g} s" if timeout else "the database's own limit"
        raise QueryTimedOut(
            f"the query was ended after {limit}: choose fewer rows (--chat, --since), or allow more time"
            " with --timeout"
        ) from error
