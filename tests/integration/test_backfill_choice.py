"""Which batches a backfill runs: filters, its plan, and what it leaves out or refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from ledger_rows import column, query
from prefect.states import State
from steered_stages import drop, runs_of

from flows.backfill import backfill
from flows.errors import BatchesFailed, BatchUnknown, NothingChosen
from flows.ledger.batches import own_batch
from flows.ledger.selection import Filters, select_batches
from flows.ledger.session import connect
from flows.operations.recovery import recover
from flows.process_inbox import process_inbox
from flows.settings import Settings


async def test_a_batch_with_purged_sources_is_refused_and_unchanged(
    installation: Settings, loaded: list[str]
) -> None:
    purge = "UPDATE source_files SET purged_at = now() WHERE name = 'a-2.zip' RETURNING stored_path"
    Path(column(installation, purge)[0]).unlink()

    state: State[Any] = await backfill(status="COMPLETED", return_state=True)

    assert state.is_failed()
    assert "1 of 3 batches failed" in str(state.message)
    assert f"{loaded[0]} is unchanged: a-2.zip is past retention" in str(state.message)
    assert runs_of(installation, loaded[0]) == ["extract", "convert", "store"]
    assert runs_of(installation, loaded[2]) == 2 * ["extract", "convert", "store"]
    assert set(column(installation, "SELECT status FROM batch_processing")) == {"COMPLETED"}
    # A purged file that arrives again is stored again.
    drop(installation, "a-2.zip")
    assert (await process_inbox())["batches"] == 0
    assert (await backfill(batch_ids=loaded[:1]))["completed"] == 1


#: Batches 1 to 3 are completed, received on the first days of March and done in April; 4 has failed.
LEDGER = b"""
INSERT INTO batch_processing (batch_id, status, file_count, completed_at, error_message)
SELECT 'batch_00000' || n, CASE n WHEN 4 THEN 'FAILED' ELSE 'COMPLETED' END, 1,
       CASE WHEN n < 4 THEN timestamptz '2026-04-01 23:59Z' + (n - 1) * interval '1 day' END,
       CASE n WHEN 1 THEN 'OSError: the disk is full' END
FROM generate_series(1, 4) n;
INSERT INTO source_files (sha256, name, size_bytes, stored_path, received_at)
SELECT CASE n WHEN 4 THEN repeat('a', 64) ELSE lpad(n::text, 64, '0') END,
       (array['a-1.zip', 'b-1.zip', 'c-1.zip', 'd_1.zip'])[n], 1, '/gone',
       timestamptz '2026-03-01 00:00Z' + (n - 1) * interval '1 day'
FROM generate_series(1, 4) n;
INSERT INTO batch_files (batch_id, source_id, position, error)
SELECT 'batch_00000' || n, n, 1, CASE n WHEN 3 THEN 'no space left on disk' END FROM generate_series(1, 4) n;
"""


@pytest.mark.parametrize(
    ("filters", "chosen"),
    [
        ({"batch_ids": ["batch_000002"]}, [2]),
        ({"status": "COMPLETED"}, [1, 2, 3]),
        ({"status": "FAILED"}, [4]),
        ({"source": "b-*.zip"}, [2]),
        ({"source": "?-1.ZIP"}, [1, 2, 3]),
        ({"source": "d_1*"}, [4]),
        ({"source": 63 * "0" + "3"}, [3]),
        ({"source": 64 * "A"}, [4]),
        ({"error": "DISK"}, [1, 3]),
        ({"error": "disk", "source": "c*"}, [3]),
        ({"received_from": date(2026, 3, 2)}, [2, 3, 4]),
        ({"received_to": date(2026, 3, 2)}, [1, 2]),
        ({"processed_from": date(2026, 4, 2), "processed_to": date(2026, 4, 2)}, [2]),
    ],
)
async def test_filters_select_batches(database_url: str, filters: dict[str, Any], chosen: list[int]) -> None:
    async with await connect(database_url, "test") as session:
        await session.execute(LEDGER)
        found = await select_batches(session, Filters(**filters))
    assert found == [f"batch_{number:06d}" for number in chosen]


async def test_a_backfill_without_filters_is_an_error(database_url: str) -> None:
    async with await connect(database_url, "test") as session:
        with pytest.raises(NothingChosen):
            await select_batches(session, Filters())
        with pytest.raises(NothingChosen, match="no batch matches"):
            await select_batches(session, Filters(source="%"))


async def test_backfill_leaves_out_a_batch_that_another_run_owns(
    installation: Settings, loaded: list[str]
) -> None:
    async with own_batch(loaded[0], installation.database):
        result = await backfill(status="COMPLETED")
    assert result == {"batches": 3, "completed": 2, "busy": 1}
    assert runs_of(installation, loaded[0]) == ["extract", "convert", "store"]


def test_a_dry_run_shows_stages_refusals_and_the_estimate(installation: Settings, loaded: list[str]) -> None:
    shutil.rmtree(installation.work / loaded[1])
    query(installation, "UPDATE source_files SET purged_at = now() WHERE name LIKE 'b%%'")
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "backfill",
        *loaded,
        "--from",
        "store",
        "--dry-run",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert [batch["stages"] for batch in plan["batches"]] == [["store"], [], ["store"]]
    assert plan["batches"][1]["refused"].startswith("b-1.zip, b-2.zip are past retention; copy the files")
    assert {lane["stage"]: lane["runs"] for lane in plan["lanes"]} == {"extract": 0, "convert": 0, "store": 2}
    assert plan["seconds"] > 0
    assert runs_of(installation, loaded[0]) == ["extract", "convert", "store"]


async def test_a_backfill_that_would_do_nothing_says_so(installation: Settings, loaded: list[str]) -> None:
    with pytest.raises(BatchUnknown, match="not in the ledger: batch_4711"):
        await backfill(batch_ids=[loaded[0], "batch_4711"])
    with pytest.raises(NothingChosen, match="no batch matches"):
        await backfill(status="FAILED")
    with pytest.raises(NothingChosen, match="nothing is left of backfill"):
        await backfill(resume=uuid4())
    async with own_batch(loaded[1], installation.database):
        with pytest.raises(BatchesFailed, match=f"nothing was done: other runs process {loaded[1]}"):
            await backfill(batch_ids=[loaded[1]])
        state: State[Any] = await backfill(
            batch_ids=loaded, received_from=date(2000, 1, 1), return_state=True
        )
    assert state.message == f"4 stored; left to another run: {loaded[1]}"
    query(installation, "UPDATE batch_processing SET status = 'FAILED' WHERE batch_id = %s", loaded[2])
    state = await backfill(batch_ids=loaded[1:], status="FAILED", from_stage="store", return_state=True)
    assert state.message == f"2 stored; skipped, because they do not match the other filters: {loaded[1]}"


async def test_a_backfill_processes_held_batches(installation: Settings, loaded: list[str]) -> None:
    query(
        installation, "UPDATE batch_processing SET status = 'QUEUED', held_at = now(), held_because = 'test'"
    )
    assert (await process_inbox())["batches"] == 0
    assert (await recover(installation)).batches == []
    await backfill(batch_ids=loaded[:1])
    held = column(installation, "SELECT batch_id FROM batch_processing WHERE held_at IS NOT NULL ORDER BY 1")
    assert held == loaded[1:]
