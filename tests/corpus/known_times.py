"""Batches and stage runs with known times in a ledger, for reports to show."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

T0 = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RUN = uuid.UUID(int=7)


def execute(ledger: Any, sql: str, *values: Any) -> Any:
    with ledger.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchone() if cursor.description else None


def add_batch(ledger: Any, batch_id: str, files: list[str], status: str = "COMPLETED") -> None:
    execute(
        ledger,
        "INSERT INTO batch_processing (batch_id, status, file_count, created_at, error_message)"
        " VALUES (%s, %s, %s, %s, %s)",
        batch_id,
        status,
        len(files),
        T0,
        "exit status 3 | bad luck" if status == "FAILED" else None,
    )
    execute(
        ledger, "INSERT INTO run_batches SELECT %s, count(*), %s, %s FROM run_batches", str(RUN), batch_id, T0
    )
    for position, file_status in enumerate(files):
        (source,) = execute(
            ledger,
            "INSERT INTO source_files (sha256, name, size_bytes, stored_path)"
            " VALUES (%s, %s, 1000000, '') RETURNING source_id",
            uuid.uuid4().hex * 2,
            f"{batch_id}-{position}.zip",
        )
        execute(ledger, "INSERT INTO receipts (source_id, origin, duplicate) VALUES (%s, '', false)", source)
        execute(
            ledger,
            "INSERT INTO batch_files VALUES (%s, %s, %s, %s, 'extract', %s, 2, 30)",
            batch_id,
            source,
            position,
            file_status,
            "not <a> ZIP | at all" if file_status == "QUARANTINED" else None,
        )


def add_run(
    ledger: Any, batch: str, stage: str, queued: float, start: float | None, end: float | None, **row: Any
) -> None:
    def at(seconds: float | None) -> datetime | None:
        return None if seconds is None else T0 + timedelta(seconds=seconds)

    values = {
        "batch_id": batch,
        "stage": stage,
        "attempt": 1,
        "queued_at": at(queued),
        "fenced_at": at(start),
        "started_at": at(start),
        "finished_at": at(end),
        "outcome": None if end is None else "COMPLETED",
        "host": "alpha",
        "pid": 42,
        "files": 10,
        "bytes_in": 20_000_000,
    } | row
    columns, marks = ", ".join(values), ", ".join(["%s"] * len(values))
    execute(ledger, f"INSERT INTO stage_runs ({columns}) VALUES ({marks})", *values.values())  # noqa: S608 - ours


def add_two_batches(ledger: Any) -> None:
    """Extract of batch 1 runs from 0 to 10 s, that of batch 2, queued at 0 s as well, from 11 to 31 s."""
    add_batch(ledger, "batch_000001", ["STORED", "PARTIAL"])
    add_batch(ledger, "batch_000002", ["STORED", "QUARANTINED", "WAITING"], status="FAILED")
    add_run(ledger, "batch_000001", "extract", 0, 0, 10)
    add_run(ledger, "batch_000002", "extract", 0, 11, 31)
    add_run(ledger, "batch_000001", "convert", 10, 10, 14, outcome="FAILED", error="boom")
    add_run(ledger, "batch_000001", "convert", 20, 20, 25, attempt=2)
    add_run(ledger, "batch_000001", "store", 25, 25, 30, slot=0)
    add_run(ledger, "batch_000002", "store", 31, 32, 40, slot=1)


def list_again(
    ledger: Any, run: uuid.UUID, batch: str, seconds: float, from_stage: str | None = None
) -> None:
    """List a batch under another flow run, as a backfill does."""
    at = T0 + timedelta(seconds=seconds)
    row = (str(run), batch, at, from_stage, at if from_stage else None)
    execute(ledger, "INSERT INTO run_batches VALUES (%s, 0, %s, %s, %s, %s)", *row)
