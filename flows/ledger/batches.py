"""One batch in the ledger, owned by one live run at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from flows.errors import BatchBusy, BatchUnknown, DatabaseUnavailable
from flows.ledger.owner import Owner, owner
from flows.ledger.session import fetch
from flows.stages.runner.contract import Result, entry_id, entry_name

#: Counts of a source file in its outcome that the ledger keeps.
_COUNTS = "chats", "messages", "rows_new", "rows_changed", "rows_same"


class BatchSource(NamedTuple):
    """A source file of a batch, as the ledger has it: ``entry`` is its name in the batch's input."""

    entry: str
    name: str
    sha256: str
    size: int
    stored: Path


class OwnedBatch:
    """A batch whose lock this process holds: no other process works on it while the session lives."""

    def __init__(self, batch_id: str, owning: Owner, status: str) -> None:
        """Made by :func:`own_batch` alone."""
        self.batch_id = batch_id
        self.status = status
        self.owner = owning
        self._generation = owning.generation

    async def ensure_owned(self) -> None:
        """Raise BatchBusy if another run has acquired or completed the batch while PostgreSQL was
        unavailable."""
        (row,) = await self.owner.fetch("batch_outcome", batch_id=self.batch_id)
        if self.batch_id in self.owner.lost:
            raise BatchBusy(f"another run is working on {self.batch_id}")
        if self.owner.generation != self._generation and row["status"] == "COMPLETED":
            raise BatchBusy(f"another run has completed {self.batch_id} meanwhile")
        self._generation = self.owner.generation

    async def _fetch(self, statement: str, **values: object) -> list[DictRow]:
        """Run a statement that may be run twice. Raises BatchBusy if another run has the batch by now."""
        rows = await self.owner.fetch(statement, batch_id=self.batch_id, **values)
        if self.batch_id in self.owner.lost:
            raise BatchBusy(f"another run is working on {self.batch_id}")
        return rows

    async def sources(self) -> list[BatchSource]:
        """Return every source file of the batch."""
        rows = await self._fetch("batch_sources")
        return [
            BatchSource(
                entry_name(row["source_id"], row["name"]),
                row["name"],
                row["sha256"],
                row["size_bytes"],
                Path(row["stored_path"]),
            )
            for row in rows
        ]

    async def record(self, stage: str, result: Result) -> None:
        """Record the outcome of each source file in a stage."""
        files = [
            {
                "source_id": source_id,
                "status": {"partial": "PARTIAL", "quarantined": "QUARANTINED"}.get(outcome.status, "WAITING"),
                "error": outcome.reason and outcome.reason.replace("\0", "\ufffd"),
                **{name: outcome.counts.get(name) for name in _COUNTS},
            }
            for outcome in result.files
            # An operator's program may name files its own way.
            if (source_id := entry_id(outcome.name)) is not None
        ]
        await self._fetch("record_files", stage=stage, files=Jsonb(files))

    async def has_completed(self, stage: str) -> bool:
        """Return whether the ledger knows of a run of the stage that was completed."""
        (row,) = await self._fetch("has_completed", stage=stage)
        return bool(row["completed"])

    async def reset_files(self) -> None:
        """Remove the recorded outcomes of the files, because the first stage runs again."""
        await self._fetch("reset_files")

    async def complete(self) -> None:
        """Mark the batch COMPLETED and its files stored."""
        await self._fetch("complete_batch")

    async def fail(self, error: str, flow_run_id: UUID | None) -> None:
        """Mark the batch FAILED; a retry resumes it at the first stage that is not done."""
        await self._fetch("fail_batch", error=error, flow_run_id=flow_run_id)

    async def requeue(self) -> None:
        """Mark the batch QUEUED: its run was cancelled and any other may claim it.

        This does not wait for an unavailable PostgreSQL: a batch whose run has ended can be claimed in any
        case.
        """
        with suppress(DatabaseUnavailable):
            await fetch(self.owner.session, "requeue_batch", batch_id=self.batch_id)

    async def held_because(self) -> str | None:
        """Return why the batch is held; None if it is not."""
        rows = await self._fetch("held_batches", batch_ids=[self.batch_id])
        return rows[0]["held_because"] if rows else None

    async def resume(self) -> None:
        """Let this run, and later ones, process the batch again."""
        await self._fetch("resume_batches", batch_ids=[self.batch_id])

    async def report(self) -> DictRow:
        """Return batch_id, status, file_count, stored, partial, quarantined and messages."""
        (row,) = await self._fetch("batch_report")
        return row


@asynccontextmanager
async def own_batch(batch_id: str, url: str) -> AsyncIterator[OwnedBatch]:
    """Hold the batch for the body. Raises BatchBusy if a live run has it, BatchUnknown if there is none."""
    async with owner(url, f"tdp {batch_id}") as owning:
        status = await owning.own_batch(batch_id)
        try:
            if status is None:
                raise BatchUnknown(f"no batch {batch_id!r} in the ledger; `tdp batches` lists them")
            yield OwnedBatch(batch_id, owning, status)
        finally:
            await owning.release_batch(batch_id)
