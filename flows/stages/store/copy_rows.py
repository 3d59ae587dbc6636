"""Read the Parquet files of convert, and COPY rows into a table."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg2.errors
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pgpq import ArrowToPostgresBinaryEncoder
from pgpq.encoders import StringEncoderBuilder
from pgpq.schema import Jsonb

from flows.errors import BadInput
from flows.exports.columns import MESSAGES
from flows.ledger.connection import Connection
from flows.stages.runner.contract import entry_id

#: Rows in memory at a time: some 10 MB of text, whatever the size of the file.
ROWS = 16_384
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


def rows_of(path: Path, keys: pa.StringArray | None, *, keep: bool = True) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the chats ``keys`` in pieces; of all other chats if not ``keep``, of all if None."""
    with open_parquet(path, MESSAGES) as file:
        for piece in file.iter_batches(ROWS, columns=MESSAGES.names):
            rows = piece.select(MESSAGES.names).cast(MESSAGES)
            if keys:
                chosen = pc.is_in(rows["chat_key"], value_set=keys)
                rows = rows.filter(chosen if keep else pc.invert(chosen))
            if rows.num_rows:
                yield rows


def open_parquet(path: Path, schema: pa.Schema) -> pq.ParquetFile:
    """Open a file of Parquet. Raises BadInput if it lacks columns of the schema."""
    file = pq.ParquetFile(path)
    if missing := set(schema.names) - set(file.schema_arrow.names):
        raise BadInput(f"{path.name} lacks the columns {', '.join(sorted(missing))}")
    return file


def copy(connection: Connection, statement: str, pieces: Iterator[pa.RecordBatch]) -> int:
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
        if chunk := encoder.write_batch(as_stored(piece)):  # small batches are buffered
            yield chunk
    yield encoder.finish()


def _prefetched(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the chunks; a thread encodes each while PostgreSQL loads the one before it."""
    with ThreadPoolExecutor(1, "encode") as thread:
        following = thread.submit(next, chunks, b"")
        while chunk := following.result():
            following = thread.submit(next, chunks, b"")
            yield chunk


def as_stored(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Return the rows with the ledger id of their source file in place of its name."""
    names = rows["source"].dictionary_encode()
    ids = pa.array([entry_id(str(name)) or 0 for name in names.dictionary.to_pylist()], pa.int64())
    return rows.set_column(rows.schema.get_field_index("source"), _SOURCE_ID, ids.take(names.indices))
