"""Sessions that only read: in UTC, with a timeout, and with queries that can be interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TypeVar

import psycopg2.errors
from psycopg2 import sql

from flows.errors import QueryTimedOut
from flows.ledger.connection import Connection

_READ = """
SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET statement_timeout = {timeout};
SET default_transaction_read_only = on
"""

T = TypeVar("T")
_POLL_SECONDS = 0.25


def prepare(connection: Connection, timeout: float | None) -> None:
    """Set the session to read in UTC; its queries end after ``timeout`` seconds (None: never)."""
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


@contextmanager
def in_thread(connection: Connection, work: Callable[[], T]) -> Iterator[Future[T]]:
    """Run ``work``, which queries the connection, while the body runs; the future has its result or error.

    In a thread, because psycopg2 waits for an answer in C, where no signal handler of Python runs. If the
    body raises, also KeyboardInterrupt, the query is cancelled.
    """
    done: Future[T] = Future()

    def run() -> None:
        if done.set_running_or_notify_cancel():
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

    try:
        Thread(target=run, name="query", daemon=True).start()
        yield done
    finally:
        # An interrupt may arrive before the thread has started, and a cancellation before the query has.
        while not done.cancel() and not done.done():
            with suppress(psycopg2.Error):
                connection.cancel()
            wait([done], _POLL_SECONDS)


def answer(connection: Connection, work: Callable[[], T]) -> T:
    """Return the result of ``work``, which queries the connection; an interrupt cancels the query."""
    with in_thread(connection, work) as done:
        return done.result()
