"""Write rows to the two Parquet files of convert's output, concurrently with the reading."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from flows.exports.columns import CHATS, MESSAGES
from flows.stages.runner.lean_imports import without_tls

with without_tls():
    import pyarrow.parquet as pq

#: Bytes of Arrow data per row group: two of them are in memory at a time.
_ROW_GROUP = 16 << 20
#: Columns with repeating values; a dictionary of texts or documents would only cost memory.
_REPEATING = ["chat_key", "type", "sender_id", "sender_name", "action", "reply_to_peer_id", "source"]


class RowWriter:
    """Writes ``chats.parquet`` and ``messages.parquet`` into a directory; a context manager.

    A separate thread compresses (Arrow releases the GIL), one row group behind the reading.
    """

    def __init__(self, directory: Path) -> None:
        """Create both files, empty."""
        self._messages = pq.ParquetWriter(
            directory / "messages.parquet",
            MESSAGES,
            compression="zstd",
            compression_level=1,
            use_dictionary=_REPEATING,  # type: ignore[arg-type] # a list is missing in the stubs
            write_statistics=["message_id"],
        )
        self._chats_path = directory / "chats.parquet"
        self._chats: list[pa.RecordBatch] = []
        self._held: list[pa.RecordBatch] = []
        self._bytes = 0
        self._thread = ThreadPoolExecutor(1, "parquet")
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Complete both files, unless there was an error."""
        try:
            if kind is None:
                self._flush()
                self._settle()
                pq.write_table(
                    pa.Table.from_batches(self._chats, CHATS), self._chats_path, compression="zstd"
                )
        finally:
            self._thread.shutdown()
            self._messages.close()

    def messages(self, batch: pa.RecordBatch) -> None:
        """Add rows of the schema MESSAGES. Raises OSError."""
        self._held.append(batch)
        self._bytes += pa.ipc.get_record_batch_size(batch)  # the same whichever process has read it
        if self._bytes >= _ROW_GROUP:
            self._flush()

    def chats(self, batch: pa.RecordBatch) -> None:
        """Add rows of the schema CHATS."""
        self._chats.append(batch)

    def _flush(self) -> None:
        self._settle()
        if self._held:
            table = pa.Table.from_batches(self._held, MESSAGES)
            self._held, self._bytes = [], 0
            self._writing = self._thread.submit(self._messages.write_table, table, table.num_rows)

    def _settle(self) -> None:
        """Wait until the current row group is written. Raises OSError if that failed."""
        if self._writing:
            self._writing.result()
            self._writing = None
