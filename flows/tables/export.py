"""Export rows into one file that appears when it is complete.

CSV and JSON Lines are what PostgreSQL's COPY writes, byte by byte; the other formats are made from record
batches (:mod:`flows.tables.formats`). The file is written in a hidden folder beside its place and then
renamed, so neither an error, a full disk nor Ctrl-C leaves a part of it.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.types as kind
from psycopg2 import sql

from flows.errors import ExportFailed
from flows.ledger.connection import Connection
from flows.tables.copying import batches, copy_into, query
from flows.tables.formats import WRITERS, texts
from flows.tables.orders import Format, Order
from flows.tables.relations import schema

#: JSON has none of these characters unescaped, so COPY writes it without quotes.
_LINES = r"FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02'"
_BOM = b"\xef\xbb\xbf"
#: What a spreadsheet takes for the beginning of a formula.
_FORMULA = "^[-=+@\t\r]"
Report = Callable[[int], object]


def export(connection: Connection, order: Order, out: Path, *, force: bool, report: Report) -> int:
    """Write the file and return the number of its rows; ``report`` receives the number so far.

    Raises ExportFailed if the file exists (unless ``force``) or cannot be written.
    """
    with complete(out, force=force) as partial:
        if order.format in WRITERS:
            return _write_batches(connection, order, partial, report)
        with partial.open("wb") as file:
            return export_text(connection, order, file, report)


def export_text(connection: Connection, order: Order, file: BinaryIO, report: Report) -> int:
    """Write CSV or JSON Lines into an open file and return the number of rows."""
    columns = schema(order.what)
    rows = query(order.what, columns.names)
    if order.format is Format.jsonl:
        lines = sql.SQL("SELECT to_json(object) FROM ({}) AS object").format(rows)
        return copy_into(connection, lines, order.choice, _LINES, file, report)
    if order.bom:
        file.write(_BOM)
    if order.escape_formulas:
        rows = _without_formulas(rows, columns)
    return copy_into(connection, rows, order.choice, "FORMAT csv, HEADER", file, report)


def _without_formulas(rows: sql.Composable, columns: pa.Schema) -> sql.Composable:
    safe = sql.SQL("CASE WHEN {0}::text ~ {1} THEN '''' || {0}::text ELSE {0}::text END AS {0}")
    pattern = sql.Literal(_FORMULA)
    chosen = [
        safe.format(sql.Identifier(column.name), pattern)
        if kind.is_string(column.type)
        else sql.Identifier(column.name)
        for column in columns
    ]
    return sql.SQL("SELECT {} FROM ({}) AS plain").format(sql.SQL(", ").join(chosen), rows)


def _write_batches(connection: Connection, order: Order, path: Path, report: Report) -> int:
    writer, as_texts = WRITERS[order.format]
    columns = texts(schema(order.what)) if as_texts else schema(order.what)
    rows = query(order.what, columns.names)
    count = 0
    with (
        writer(path, order.what.name, columns) as write,
        closing(batches(connection, rows, order.choice, columns)) as found,
    ):
        for batch in found:
            write(batch)
            count += batch.num_rows
            report(count)
    return count


@contextmanager
def complete(out: Path, *, force: bool) -> Iterator[Path]:
    """Yield a path beside ``out`` for the file, which is moved there if the body does not raise.

    Raises ExportFailed, also for errors of the body in writing it.
    """
    if out.is_dir() or (out.exists() and not force):
        hint = "it is a folder" if out.is_dir() else "it exists; --force replaces it"
        raise ExportFailed(f"{out}: {hint}")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", suffix=".partial", dir=out.parent) as folder:
            partial = Path(folder, out.name)
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(out)
    except (OSError, sqlite3.Error, pa.ArrowException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ExportFailed(f"{out} was not written: {reason}") from error
