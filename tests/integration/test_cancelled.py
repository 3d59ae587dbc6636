"""Stage runs that were cancelled: the ledger says why, and the timings count them."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import psycopg
import pytest
from block_documents import write_stage
from typer.testing import CliRunner

from flows.cli.reports import app
from flows.domain import StopReason
from flows.process_inbox import process_inbox
from flows.settings import Settings


def errors(settings: Settings) -> list[Any]:
    with psycopg.connect(settings.database) as connection:
        query = "SELECT error FROM stage_runs WHERE started_at IS NOT NULL ORDER BY stage_run_id"
        return [error for (error,) in connection.execute(query)]


async def test_a_cancelled_stage_run_says_why(installation: Settings, tmp_path: Path) -> None:
    works = tmp_path / "works"
    write_stage("extract", "sh", "-c", f"touch {works}; sleep 600")
    installation.inbox.mkdir(parents=True, exist_ok=True)
    file = installation.inbox / "a.zip"
    file.write_text("a")
    os.utime(file, (1, 1))
    for reason in ([StopReason("its run was interrupted in the terminal")], []):
        run = asyncio.create_task(process_inbox())
        async with asyncio.timeout(60):
            while not works.exists():
                assert not run.done()
                await asyncio.sleep(0.05)
        works.unlink()
        run.cancel(*reason)
        with pytest.raises(asyncio.CancelledError):
            await run
    named, unnamed = errors(installation)
    assert named == "cancelled: its run was interrupted in the terminal"
    assert unnamed.startswith("cancelled: its process was stopped, with the services")
    (lane,) = json.loads(CliRunner().invoke(app, ["timings", "--json"]).stdout)
    assert (lane["runs"], lane["failed"], lane["cancelled"]) == (2, 0, 2)
    for by, row in (("stage", ["Cancelled", "2"]), ("batch", ["batch_000001", "extract", "2", "0", "2"])):
        page = CliRunner().invoke(app, ["timings", "--by", by], env={"COLUMNS": "80"}).stdout
        assert any(line.split()[: len(row)] == row for line in page.splitlines()), page
    page = CliRunner().invoke(app, ["show", "1"]).stdout
    assert "extract, attempt 1: cancelled: its run was interrupted in the terminal" in " ".join(page.split())
