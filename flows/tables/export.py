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
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.types as kind
from psycopg2 import sql

from flows.errors import ExportFailed
from flows.ledger.connection import Connection
from flows.tables.copying import batches, copy_into, query
from flows.tables.formats import SHEET_ROWS, TOO_MANY, WRITERS, texts
from flows.tables.orders import Choice, Format, Order
from flows.tables.packages import package
from flows.tables.relations import schema
from flows.tables.sessions import answer

#: JSON has none of these characters unescaped, so COPY writes it without quotes.
_LINES = r"FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02'"
_BOM = b"\xef\xbb\xbf"
#: Characters that begin a formula in a spreadsheet; in some programs the full-width signs, too.
_FORMULA = "^[-=+@＝＋－＠\t\r\n]"
Report = Callable[[int], object]


class Exported(NamedTuple):
    """The number of rows, and of texts that had to be cut because the format has none as long."""

    rows: int
    cut: int = 0


def export(connection: Connection, order: Order, out: Path, *, force: bool, report: Report) -> Exported:
    """Write the file; ``report`` receives the number of rows so far.

    Raises ExportFailed if the file exists (unless ``force``) or cannot be written.
    """
    with complete(out, force=force) as partial:
        if order.format in WRITERS:
            return _write_batches(connection, order, partial, report)
        with partial.open("wb") as file:
            return Exported(export_text(connection, order, file, report))


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


def _write_batches(connection: Connection, order: Order, path: Path, report: Report) -> Exported:
    writer, as_texts = WRITERS[order.format]
    columns = texts(schema(order.what)) if as_texts else schema(order.what)
    rows = query(order.what, columns.names)
    if order.format is Format.xlsx:
        _check_sheet(connection, rows, order.choice)
    count = cut = 0
    with (
        writer(path, order.what.name, columns) as write,
        closing(batches(connection, rows, order.choice, columns)) as found,
    ):
        for batch in found:
            cut += write(batch)
            count += batch.num_rows
            report(count)
    return Exported(count, cut)


def _check_sheet(connection: Connection, rows: sql.Composable, choice: Choice) -> None:
    """Raise ExportFailed if a sheet has no room for the rows: to count them takes a second, not minutes."""
    package("xlsxwriter")
    count = sql.SQL("SELECT count(*) > {} FROM (SELECT FROM ({}) AS rows LIMIT {} + 1) AS counted")
    most = sql.Literal(SHEET_ROWS)
    with connection.cursor() as cursor:
        answer(connection, lambda: cursor.execute(count.format(most, rows, most), choice._asdict()))
        if cursor.fetchone() == (True,):
            raise ExportFailed(TOO_MANY)


@contextmanager
def complete(out: Path, *, force: bool) -> Iterator[Path]:
    """Yield a path beside ``out`` for the file, which is moved there if the body does not raise.

    Raises ExportFailed, also for errors of the body in writing it.
    """
    place = place_of(out, force=force)
    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{place.name}-", suffix=".partial", dir=place.parent
        ) as folder:
            partial = Path(folder, place.name)
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            _move(partial, place, force=force)
    except FileExistsError as error:
        raise ExportFailed(f"{out} appeared meanwhile, and is kept; --force replaces it") from error
    except (OSError, sqlite3.Error, pa.ArrowException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ExportFailed(f"{out} was not written: {reason}") from error


def place_of(out: Path, *, force: bool) -> Path:
    """Return the place of the file: ``out``, or what that symbolic link refers to.

    Raises ExportFailed if it exists (unless ``force``), or is not a regular file: a folder, a pipe, a device.
    """
    if out.is_dir():
        raise ExportFailed(f"{out}: it is a folder")
    if out.exists() and not out.is_file():
        raise ExportFailed(f"{out}: it is not a regular file; `-` writes CSV and JSON Lines to stdout")
    if out.exists() and not force:
        raise ExportFailed(f"{out}: it exists; --force replaces it")
    return Path(os.path.realpath(out))


def _move(partial: Path, place: Path, *, force: bool) -> None:
    """Move the file to its place. Raises FileExistsError if one exists there by now, unless ``force``."""
    if force:
        partial.replace(place)
        return
    try:
        place.hardlink_to(partial)  # a rename would replace the file
    except FileExistsError:
        raise
    except OSError:  # the file system has no hard links
        place.touch(exist_ok=False)
        partial.replace(place)
