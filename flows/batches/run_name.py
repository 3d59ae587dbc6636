"""Names of parent runs that say what they process: ``inbox 2026-03-01 12:05, 37 files``."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from prefect.client.orchestration import get_client

from flows.batches.runtime import Runtime
from flows.ledger.named_sql import load
from flows.reports import text

_sql = load("reports.sql")


async def name_run(run_id: UUID, what: str, batches: list[str], runtime: Runtime) -> None:
    """Name the run after ``what`` it processes, the local time, and the number of files in its batches."""
    totals = await runtime.query(lambda connection: _sql.batch_totals(connection, batch_ids=batches))
    files = text.count(totals["files"], "file", "files")
    now = datetime.now().astimezone()
    async with get_client() as client:
        await client.update_flow_run(run_id, name=f"{what} {now:%Y-%m-%d %H:%M}, {files}")
