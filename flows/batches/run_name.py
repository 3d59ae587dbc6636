"""Names of parent runs that say what they process: ``inbox 2026-03-01 12:05, 37 files``."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from flows.batches.runtime import Runtime
from flows.domain import BACKFILL, PROCESS_INBOX
from flows.ledger.named_sql import load
from flows.reports import text

_sql = load("reports.sql")


async def name_run(run_id: UUID, what: str, batches: list[str], runtime: Runtime) -> None:
    """Name the run after ``what`` it processes, the local time, and the number of files in its batches."""
    totals = await runtime.query(lambda connection: _sql.batch_totals(connection, batch_ids=batches))
    files = text.count(totals["files"], "file", "files")
    async with get_client() as client:
        await client.update_flow_run(run_id, name=f"{_at_this_time(what)}, {files}")


def first_name() -> str:
    """Return the name of a parent run that begins: it does not know its files yet, and may fail before."""
    folder = flow_run.get_parameters().get("inbox")
    is_inbox = flow_run.get_flow_name() == PROCESS_INBOX
    return _at_this_time((Path(folder).name if folder else "inbox") if is_inbox else BACKFILL)


def _at_this_time(what: str) -> str:
    return f"{what} {datetime.now().astimezone():%Y-%m-%d %H:%M}"
