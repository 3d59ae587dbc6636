"""COPY … TO STDOUT of a query: as bytes into a file, or as Arrow record batches.

PostgreSQL formats the rows and libpq delivers them one by one, so memory does not grow with their number. The
COPY runs in a thread: the thread that waits for it can be interrupted at any time, and a batch is decoded
while the next one arrives. A COPY reads one snapshot and takes no lock that a load waits for.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from queue import Full, Queue
from select import select
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.csv
from psycopg2 import sql

from flows.ledger.connection import Connection
from flows.tables.orders import Choice, What
from flows.tables.relations import statement
from flows.tables.sessions import in_thread

#: A batch has at least so many bytes of CSV, if there are as many: some ten thousand messages.
BATCH_BYTES = 4 << 20
_TEXT_BYTES = 1 << 18
_POLL_SECONDS = 0.25


class Sink(Protocol):
    """Receives the rows, one in each call, in a thread of the COPY."""

    def write(self, row: bytes, /) -> object:
        """Receive one row, or the line of headers."""


def query(what: What, names: list[str]) -> sql.Composable:
    """Return the query of the columns ``names``; a Choice has its parameters."""
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    return sql.SQL("SELECT {} FROM ({}) AS rows").format(columns, sql.SQL(statement(what)))


def estimate(connection: Connection, rows: sql.Composable, choice: Choice) -> int:
    """Return the planner's estimate of the number of rows."""
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("EXPLAIN (FORMAT JSON) {}").format(rows), choice._asdict())
        ((plan,),) = cursor.fetchall()
    return int(plan[0]["Plan"]["Plan Rows"])


@contextmanager
def copying(
    connection: Connection, rows: sql.Composable, choice: Choice, options: str, sink: Sink
) -> Iterator[Future[int]]:
    """Copy the rows into the sink while the body runs; the future has their number or the error.

    If the body raises, also KeyboardInterrupt, the COPY is cancelled.
    """
    with connection.cursor() as cursor:
        command = sql.SQL("COPY ({}) TO STDOUT ({})").format(rows, sql.SQL(options))
        bound = cursor.mogrify(command, choice._asdict())

        def copy() -> int:
            cursor.copy_expert(bound, sink)
            return cursor.rowcount

        with in_thread(connection, copy) as done:
            yield done


def copy_into(
    connection: Connection,
    rows: sql.Composable,
    choice: Choice,
    options: str,
    file: Any,
    report: Callable[[int], object],
) -> int:
    """Copy the rows into a binary file; return their number and ``report`` it meanwhile.

    The file may be unbuffered. It is written in the calling thread, so that a signal interrupts it even if
    it is a pipe that is not read.
    """
    with _collecting(connection, rows, choice, options, _TEXT_BYTES) as (pieces, done):
        while piece := pieces.next():
            _write(file, piece)
            report(pieces.rows)
        return done.result()


def _write(file: Any, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        written = file.write(rest)
        if written is None:  # another program has set the pipe to non-blocking mode
            select([], [file], [])
        else:
            rest = rest[written:]


def batches(
    connection: Connection, rows: sql.Composable, choice: Choice, schema: pa.Schema
) -> Generator[pa.RecordBatch]:
    """Yield the rows in batches of the schema, whose columns are those of the query in their order."""
    with _collecting(connection, rows, choice, "FORMAT csv", BATCH_BYTES) as (pieces, done):
        while piece := pieces.next():
            yield from _decoded(piece, schema)
        done.result()


@contextmanager
def _collecting(
    connection: Connection, rows: sql.Composable, choice: Choice, options: str, least: int
) -> Iterator[tuple[_Pieces, Future[int]]]:
    """Copy the rows into pieces of ``least`` bytes while the body runs."""
    pieces = _Pieces(least)
    with copying(connection, rows, choice, options, pieces) as done:
        done.add_done_callback(lambda _: pieces.end())
        try:
            yield pieces, done
        finally:
            pieces.stop()


class _Pieces:
    """Collects rows into pieces of ``least`` bytes; two of them wait, then the COPY waits."""

    def __init__(self, least: int) -> None:
        self.rows = 0
        self._least = least
        self._rows: list[bytes] = []
        self._size = 0
        self._ready: Queue[bytes] = Queue(2)
        self._stopped = False

    def write(self, row: bytes, /) -> None:
        self.rows += 1
        self._rows.append(row)
        self._size += len(row)
        if self._size >= self._least:
            self._put()

    def _put(self) -> None:
        piece = b"".join(self._rows)
        self._rows, self._size = [], 0
        while True:
            if self._stopped:
                raise InterruptedError
            with suppress(Full):
                return self._ready.put(piece, timeout=_POLL_SECONDS)

    def end(self) -> None:
        """Deliver the rest; runs in the thread of the COPY."""
        with suppress(InterruptedError):
            if self._rows:
                self._put()
            self._put()

    def next(self) -> bytes:
        """Return the next piece; an empty one after the last, also if the COPY has failed."""
        return self._ready.get()

    def stop(self) -> None:
        """Take no more rows."""
        self._stopped = True


def _decoded(piece: bytes, schema: pa.Schema) -> list[pa.RecordBatch]:
    """Return rows of COPY's CSV, where NULL is an empty value without quotes."""
    table = pyarrow.csv.read_csv(
        io.BytesIO(piece),
        read_options=pyarrow.csv.ReadOptions(
            column_names=schema.names, block_size=len(piece) + 1, use_threads=False
        ),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=schema, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    )
    return table.to_batches()
