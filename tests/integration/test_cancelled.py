"""Runs that were stopped: their stage runs say why, and what they have received is held with them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import psycopg
import pytest
from block_documents import write_stage
from typer.testing import CliRunner

from flows.batches import stopping
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


async def test_what_a_stopped_run_has_received_is_held_and_not_processed_by_the_next_one(
    installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "_interrupted", [])
    installation.inbox.mkdir(parents=True, exist_ok=True)
    for age, name in ((2, "a.zip"), (1, "b.zip")):
        (installation.inbox / name).write_text(name)
        os.utime(installation.inbox / name, (10 - age, 10 - age))
    blocking = "INSERT INTO arrivals (sha256, name, size_bytes, stored_path, origin, sighting)"
    with (
        psycopg.connect(installation.database) as other,
        psycopg.connect(installation.database, autocommit=True) as ledger,
    ):
        sha256 = hashlib.sha256(b"b.zip").hexdigest()
        other.execute(f"{blocking} VALUES (%s, '', 0, '', '', '')".encode(), [sha256])  # b.zip has to wait
        run = asyncio.create_task(process_inbox(return_state=True))
        async with asyncio.timeout(60):
            while ledger.execute("SELECT name FROM source_files").fetchall() != [("a.zip",)]:
                assert not run.done()
                await asyncio.sleep(0.05)
        stopping.interrupt(run)
        state = await run
        other.rollback()
        assert state.name == "Cancelled"
        assert "Held: batch_000001. The next run continues it" in str(state.message)
        assert f"What is still in {installation.inbox} was not received: a Retry" in str(state.message)
        await process_inbox()
        statuses = ledger.execute("SELECT status, held_at IS NULL FROM batch_processing ORDER BY batch_id")
        assert statuses.fetchall()[0] == ("QUEUED", False)
        assert ledger.execute(
            "SELECT batch_id, name FROM batch_files JOIN source_files USING (source_id) ORDER BY 1"
        ).fetchall() == [("batch_000001", "a.zip"), ("batch_000002", "b.zip")]
