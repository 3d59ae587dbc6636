"""Writers of the formats that are made from Arrow record batches: each writes one file, in bounded memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kind

from flows.errors import ExportFailed
from flows.tables.orders import Format
from flows.tables.packages import package

#: Writes rows, and returns how many texts had to be cut.
Write = Callable[[pa.RecordBatch], int]
#: Rows below the headers of a sheet, and characters (units of UTF-16) of a cell of Excel, at most.
SHEET_ROWS, CELL_CHARACTERS = 1_048_575, 32_767
TOO_MANY = f"a sheet of Excel has {SHEET_ROWS:,} rows at most: choose fewer, or another format"


def texts(schema: pa.Schema) -> pa.Schema:
    """Return the schema with times as text, as PostgreSQL writes them: ``2026-03-01 12:00:00+00``."""
    return pa.schema([(field.name, pa.string() if _is_time(field) else field.type) for field in schema])


def _is_time(field: pa.Field[Any]) -> bool:
    return kind.is_timestamp(field.type)


@contextmanager
def _parquet(path: Path, table: str, schema: pa.Schema) -> Iterator[Write]:
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        yield _uncut(writer.write_batch)


@contextmanager
def _sqlite(path: Path, table: str, schema: pa.Schema) -> Iterator[Write]:
    types = {pa.int64(): "INTEGER", pa.float64(): "REAL"}
    columns = ", ".join(f'"{field.name}" {types.get(field.type, "TEXT")}' for field in schema)
    insert = f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(schema))})'  # noqa: S608 - our own names
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        # The file is renamed when it is complete, so it needs no journal.
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        database.execute(f'CREATE TABLE "{table}" ({columns})')
        database.execute("BEGIN")
        yield _uncut(lambda batch: database.executemany(insert, _rows(batch)))
        database.execute("COMMIT")


@contextmanager
def _duckdb(path: Path, table: str, schema: pa.Schema) -> Iterator[Write]:
    duckdb = package("duckdb")
    try:
        with duckdb.connect(str(path)) as database:
            database.from_arrow(schema.empty_table()).create(table)
            yield _uncut(lambda batch: database.from_arrow(pa.Table.from_batches([batch])).insert_into(table))
    except duckdb.Error as error:
        raise OSError(str(error)) from error


@contextmanager
def _xlsx(path: Path, table: str, schema: pa.Schema) -> Iterator[Write]:
    package("xlsxwriter")
    from xlsxwriter.exceptions import XlsxWriterException

    sheet = _Sheet(path, table, schema)
    yield sheet.write
    try:
        sheet.book.close()
    except XlsxWriterException as error:
        raise OSError(str(error)) from error


class _Sheet:
    """One sheet with a line of headers; texts are never formulas, and are cut to the size of a cell."""

    def __init__(self, path: Path, table: str, schema: pa.Schema) -> None:
        options = {"constant_memory": True, "tmpdir": str(path.parent)}
        self.book = package("xlsxwriter").Workbook(str(path), options)
        self._sheet = self.book.add_worksheet(table[:31])
        bold = self.book.add_format({"bold": True})
        for column, name in enumerate(schema.names):
            self._sheet.write_string(0, column, name, bold)
        self._sheet.freeze_panes(1, 0)
        self._next = 1

    def write(self, batch: pa.RecordBatch) -> int:
        """Write the rows and return how many texts were cut."""
        if self._next + batch.num_rows > SHEET_ROWS + 1:
            raise ExportFailed(TOO_MANY)
        cut = 0
        for row in _rows(batch):
            for column, value in enumerate(row):
                if isinstance(value, str):
                    kept = _fitting(value)
                    self._sheet.write_string(self._next, column, kept)
                    cut += len(kept) < len(value)
                elif value is not None:
                    self._sheet.write_number(self._next, column, value)
            self._next += 1
        return cut


def _fitting(text: str) -> str:
    """Return a text, cut to the size of a cell. Excel counts units of UTF-16: an emoji is two."""
    if len(text) <= CELL_CHARACTERS // 2:
        return text
    return text.encode("utf-16-le")[: 2 * CELL_CHARACTERS].decode("utf-16-le", "ignore")


def _uncut(write: Callable[[pa.RecordBatch], object]) -> Write:
    def whole(batch: pa.RecordBatch) -> int:
        write(batch)
        return 0

    return whole


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in batch.columns), strict=True)


#: Of each format the writer, and whether times are written as texts.
WRITERS: dict[Format, tuple[Callable[[Path, str, pa.Schema], AbstractContextManager[Write]], bool]] = {
    Format.parquet: (_parquet, False),
    Format.sqlite: (_sqlite, True),
    Format.duckdb: (_duckdb, False),
    Format.xlsx: (_xlsx, True),
}
