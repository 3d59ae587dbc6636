"""Backfills: they restore the same rows, whatever is left on disk, and yield to other runs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from prefect.states import State
from psycopg.rows import dict_row

from blocks import StageCommand
from flows.backfill import backfill
from flows.batches.workdir import STAGES
from flows.errors import BatchesFailed, BatchUnknown, NothingChosen
from flows.ledger.batches import own_batch
from flows.ledger.selection import Filters, select_batches
from flows.ledger.session import connect
from flows.operations.recovery import recover
from flows.process_inbox import process_inbox
from flows.samples import write_samples
from flows.settings import Settings


def rows(settings: Settings, statement: str, *values: object) -> list[dict[str, Any]]:
    with psycopg.connect(settings.database, row_factory=dict_row, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []


def column(settings: Settings, statement: str, *values: object) -> list[Any]:
    return [next(iter(row.values())) for row in rows(settings, statement, *values)]


def drop(settings: Settings, *names: str) -> None:
    settings.inbox.mkdir(parents=True, exist_ok=True)
    for name in names:
        file = settings.inbox / name
        file.write_text(name)
        os.utime(file, (1, 1))  # older than settle_seconds


@pytest.fixture
async def programs(installation: Settings) -> Path:
    """Stages that copy their input; files here steer them: ``seconds`` to sleep, ``broken`` convert."""
    here = installation.root
    (here / "seconds").write_text("0")
    for stage in STAGES:
        script = (
            "set -e; cp -rL {input} {output}.new; rm -f {output}.new/manifest.json; mv {output}.new {output}"
        )
        if stage == "convert":
            script = f"test ! -e {here}/broken || exit 64; {script}"
        script = f"sleep $(cat {here}/seconds); {script}"
        await StageCommand(command=["sh", "-c", script]).asave(stage, overwrite=True)
    return here


def runs_of(settings: Settings, batch_id: str) -> list[str]:
    return column(settings, "SELECT stage FROM stage_runs WHERE batch_id = %s ORDER BY queued_at", batch_id)


@pytest.fixture
async def loaded(installation: Settings, programs: Path) -> list[str]:
    """Three completed batches of two files each."""
    drop(installation, "a-1.zip", "a-2.zip", "b-1.zip", "b-2.zip", "c-1.zip", "c-2.zip")
    await process_inbox(batch_size=2)
    return column(installation, "SELECT batch_id FROM batch_processing ORDER BY batch_id")


@pytest.mark.parametrize(
    ("from_stage", "again"),
    [
        ("extract", ["extract", "convert", "store"]),
        ("convert", ["convert", "store"]),
        ("store", ["store"]),
    ],
)
async def test_backfill_runs_a_batch_again_from_the_given_stage(
    installation: Settings, loaded: list[str], from_stage: Any, again: list[str]
) -> None:
    result = await backfill(batch_ids=loaded[:1], from_stage=from_stage)
    assert result == {"batches": 1, "completed": 1, "busy": 0}
    assert runs_of(installation, loaded[0]) == ["extract", "convert", "store", *again]
    assert runs_of(installation, loaded[1]) == ["extract", "convert", "store"]
    assert set(column(installation, "SELECT status FROM batch_processing")) == {"COMPLETED"}
    assert set(column(installation, "SELECT status FROM batch_files")) == {"STORED"}


@pytest.mark.parametrize(
    ("from_stage", "work_is_gone"), [("extract", False), ("convert", False), ("store", True)]
)
async def test_backfill_restores_the_rows_of_the_first_load(
    installation: Settings, from_stage: Any, work_is_gone: bool
) -> None:
    write_samples(installation.inbox, files=6, messages=30, seed=3, broken=3)
    await process_inbox(batch_size=3)
    names = "chats", "messages", "batch_files"
    tables = [f"SELECT * FROM {name} t ORDER BY t" for name in names]  # noqa: S608 - these names
    before = [rows(installation, table) for table in tables]
    rows(installation, "DELETE FROM messages WHERE mod(message_id, 3) = 0")
    rows(installation, "UPDATE messages SET text = 'spoilt', revision = 'z' WHERE mod(message_id, 3) = 1")
    if work_is_gone:
        shutil.rmtree(installation.work)

    await backfill(status="COMPLETED", from_stage=from_stage)

    after = [rows(installation, table) for table in tables]
    assert [len(table) for table in after] == [len(table) for table in before]
    assert after == before


async def test_missing_outputs_are_made_again_from_the_sources(
    installation: Settings, loaded: list[str]
) -> None:
    shutil.rmtree(installation.work / loaded[0])
    await backfill(batch_ids=loaded[:1], from_stage="store")
    assert runs_of(installation, loaded[0]) == 2 * ["extract", "convert", "store"]


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


async def test_output_of_extract_is_reused_when_the_sources_are_purged(
    installation: Settings, loaded: list[str]
) -> None:
    shutil.rmtree(installation.sources)
    rows(installation, "UPDATE source_files SET purged_at = now()")
    assert (await backfill(batch_ids=loaded[:1], from_stage="convert"))["completed"] == 1


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


async def test_new_batches_wait_for_at_most_one_stage_run_of_a_backfill(
    installation: Settings, programs: Path
) -> None:
    drop(installation, *(f"old-{number}.zip" for number in range(18)))
    await process_inbox(batch_size=1)
    (programs / "seconds").write_text("0.8")
    running = asyncio.create_task(backfill(status="COMPLETED", window=18))
    queued = "SELECT count(*) FROM stage_runs WHERE attempt = 2 AND stage = 'extract'"
    while column(installation, queued) != [18]:
        await asyncio.sleep(0.05)
    drop(installation, "fresh-1.zip", "fresh-2.zip", "fresh-3.zip")
    await process_inbox(batch_size=1)
    still_to_come = rows(installation, "SELECT 1 FROM batch_processing WHERE status <> 'COMPLETED'")
    await running

    assert len(still_to_come) > 3, "the backfill should still have been running"
    # A stage run enters the queue shortly after the ledger has recorded it as queued.
    in_front = rows(
        installation,
        """
        SELECT f.batch_id, f.stage, count(b.stage_run_id) AS runs FROM stage_runs f
        LEFT JOIN stage_runs b ON b.stage = f.stage AND b.attempt = 2
             AND b.started_at > f.queued_at + interval '1.5 s' AND b.started_at < f.started_at
        WHERE f.batch_id > 'batch_000018' GROUP BY f.batch_id, f.stage
        """,
    )
    assert len(in_front) == 9
    assert max(row["runs"] for row in in_front) <= 1, in_front
    assert rows(installation, "SELECT * FROM stage_overlaps") == []
    assert set(column(installation, "SELECT status FROM batch_processing")) == {"COMPLETED"}


async def test_an_interrupted_backfill_is_resumed_where_it_stopped(
    installation: Settings, programs: Path, loaded: list[str], tmp_path: Path
) -> None:
    (programs / "seconds").write_text("0.5")
    argv = [sys.executable, "-m", "flows.cli.inbox_process", "flows.backfill:backfill"]
    argv += ['{"status": "COMPLETED", "window": 1}', str(tmp_path / "outcome")]
    with subprocess.Popen(argv) as process:  # noqa: ASYNC220 - its start may block
        second = "SELECT 1 FROM stage_runs WHERE batch_id = %s AND attempt = 2 AND stage = 'convert'"
        while not rows(installation, second, loaded[1]):
            await asyncio.sleep(0.05)
        process.kill()
    (killed,) = column(
        installation, "SELECT DISTINCT flow_run_id FROM run_batches WHERE from_stage = 'extract'"
    )

    result = await backfill(resume=killed)

    assert result == {"batches": 2, "completed": 2, "busy": 0}
    assert runs_of(installation, loaded[0]) == 2 * ["extract", "convert", "store"]
    # Its extract was completed; whether convert was completed before the kill is a matter of milliseconds.
    assert runs_of(installation, loaded[1])[:5] == ["extract", "convert", "store", "extract", "convert"]
    assert runs_of(installation, loaded[1]).count("extract") == 2
    assert runs_of(installation, loaded[2]) == 2 * ["extract", "convert", "store"]
    assert set(column(installation, "SELECT status FROM batch_processing")) == {"COMPLETED"}


async def test_backfill_leaves_out_a_batch_that_another_run_owns(
    installation: Settings, loaded: list[str]
) -> None:
    async with own_batch(loaded[0], installation.database):
        result = await backfill(status="COMPLETED")
    assert result == {"batches": 3, "completed": 2, "busy": 1}
    assert runs_of(installation, loaded[0]) == ["extract", "convert", "store"]


async def test_resume_runs_failed_batches_from_the_failed_stage(
    installation: Settings, programs: Path, loaded: list[str]
) -> None:
    (programs / "broken").touch()
    failed = await backfill(batch_ids=loaded[:2], return_state=True)
    assert "2 of 2 batches failed" in str(failed.message)
    (programs / "broken").unlink()
    assert (await backfill(resume=failed.state_details.flow_run_id))["completed"] == 2
    assert runs_of(installation, loaded[0])[3:] == ["extract", "convert", "convert", "store"]


def test_a_dry_run_shows_stages_refusals_and_the_estimate(installation: Settings, loaded: list[str]) -> None:
    shutil.rmtree(installation.work / loaded[1])
    rows(installation, "UPDATE source_files SET purged_at = now() WHERE name LIKE 'b%%'")
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
    rows(installation, "UPDATE batch_processing SET status = 'FAILED' WHERE batch_id = %s", loaded[2])
    state = await backfill(batch_ids=loaded[1:], status="FAILED", from_stage="store", return_state=True)
    assert state.message == f"2 stored; skipped, for they do not match the other filters: {loaded[1]}"


async def test_a_backfill_processes_held_batches(installation: Settings, loaded: list[str]) -> None:
    rows(
        installation, "UPDATE batch_processing SET status = 'QUEUED', held_at = now(), held_because = 'test'"
    )
    assert (await process_inbox())["batches"] == 0
    assert (await recover(installation)).batches == []
    await backfill(batch_ids=loaded[:1])
    held = column(installation, "SELECT batch_id FROM batch_processing WHERE held_at IS NOT NULL ORDER BY 1")
    assert held == loaded[1:]
