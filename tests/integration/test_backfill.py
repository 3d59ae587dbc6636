"""Backfills: they restore the same rows, whatever is left on disk, and yield to other runs."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ledger_rows import column, query
from steered_stages import drop, runs_of

from flows.backfill import backfill
from flows.domain import STAGES
from flows.errors import BatchesFailed
from flows.operations.quarantine import drop_files, droppable, return_files
from flows.process_inbox import process_inbox
from flows.samples import write_samples
from flows.settings import Settings


async def test_backfill_runs_a_batch_again_from_the_given_stage(
    installation: Settings, loaded: list[str]
) -> None:
    all_stages = ["extract", "convert", "store"]
    for batch_id, from_stage in zip(loaded, STAGES, strict=True):
        result = await backfill(batch_ids=[batch_id], from_stage=from_stage)
        assert result == {"batches": 1, "completed": 1, "busy": 0}
    ran = [runs_of(installation, batch_id) for batch_id in loaded]
    assert ran == [all_stages + all_stages[first:] for first in range(3)]
    assert set(column(installation, "SELECT status FROM batch_processing")) == {"COMPLETED"}
    assert set(column(installation, "SELECT status FROM batch_files")) == {"STORED"}


async def test_backfill_restores_the_rows_of_the_first_load(installation: Settings) -> None:
    write_samples(installation.inbox, files=6, messages=30, seed=3, broken=3)
    await process_inbox(batch_size=3)
    names = "chats", "messages", "batch_files"
    tables = [f"SELECT * FROM {name} t ORDER BY t" for name in names]  # noqa: S608 - these names
    before = [query(installation, table) for table in tables]
    for from_stage in STAGES:
        query(installation, "DELETE FROM messages WHERE mod(message_id, 3) = 0")
        query(
            installation, "UPDATE messages SET text = 'spoilt', revision = 'z' WHERE mod(message_id, 3) = 1"
        )
        if from_stage == "store":
            shutil.rmtree(installation.work)

        await backfill(status="COMPLETED", from_stage=from_stage)

        after = [query(installation, table) for table in tables]
        assert [len(table) for table in after] == [len(table) for table in before], from_stage
        assert after == before, from_stage


async def test_missing_outputs_are_made_again_from_the_sources(
    installation: Settings, loaded: list[str]
) -> None:
    shutil.rmtree(installation.work / loaded[0])
    await backfill(batch_ids=loaded[:1], from_stage="store")
    assert runs_of(installation, loaded[0]) == 2 * ["extract", "convert", "store"]


async def test_a_batch_of_which_a_quarantined_file_was_returned_or_dropped_is_extracted_again(
    installation: Settings, tmp_path: Path
) -> None:
    write_samples(installation.inbox, files=3, messages=20, seed=3, broken=3)
    await process_inbox(batch_size=6)
    table = "SELECT source_id, status, error FROM batch_files ORDER BY 1"
    before = query(installation, table)

    async def drop_all() -> int:
        return len(await drop_files(installation, [file.id for file in await droppable(installation, None)]))

    assert len([file async for file in return_files(installation, None, tmp_path / "back")]) == 2
    await backfill(status="COMPLETED")
    undecided = (
        "SELECT count(*) FROM source_files JOIN batch_files USING (source_id) WHERE status = 'QUARANTINED'"
    )
    assert column(installation, f"{undecided} AND returned_at IS NULL") == [2]  # they are quarantined again
    assert await drop_all() == 2
    state = await backfill(status="COMPLETED", return_state=True)
    assert (state.name, state.message) == ("Completed", "3 stored, 1 in part, 2 dropped")
    assert query(installation, table) == before
    query(installation, "UPDATE batch_files SET status = 'QUARANTINED'")
    assert await drop_all() == 4
    with pytest.raises(BatchesFailed, match=r"all its files were dropped.*backfill\)$"):
        await backfill(status="COMPLETED")


async def test_output_of_extract_is_reused_when_the_sources_are_purged(
    installation: Settings, loaded: list[str]
) -> None:
    shutil.rmtree(installation.sources)
    query(installation, "UPDATE source_files SET purged_at = now()")
    assert (await backfill(batch_ids=loaded[:1], from_stage="convert"))["completed"] == 1


async def test_new_batches_wait_for_at_most_one_stage_run_of_a_backfill(
    installation: Settings, programs: Path
) -> None:
    drop(installation, *(f"old-{number}.zip" for number in range(12)))
    await process_inbox(batch_size=1)
    (programs / "seconds").write_text("0.8")
    running = asyncio.create_task(backfill(status="COMPLETED", window=12))
    queued = "SELECT count(*) FROM stage_runs WHERE attempt = 2 AND stage = 'extract'"
    while column(installation, queued) != [12]:
        await asyncio.sleep(0.05)
    drop(installation, "fresh-1.zip", "fresh-2.zip", "fresh-3.zip")
    await process_inbox(batch_size=1)
    still_to_come = query(installation, "SELECT 1 FROM batch_processing WHERE status <> 'COMPLETED'")
    await running

    assert len(still_to_come) > 3, "the backfill should still have been running"
    # A stage run enters the queue shortly after the ledger has recorded it as queued.
    in_front = query(
        installation,
        """
        SELECT f.batch_id, f.stage, count(b.stage_run_id) AS runs FROM stage_runs f
        LEFT JOIN stage_runs b ON b.stage = f.stage AND b.attempt = 2
             AND b.started_at > f.queued_at + interval '1.5 s' AND b.started_at < f.started_at
        WHERE f.batch_id > 'batch_000012' GROUP BY f.batch_id, f.stage
        """,
    )
    assert len(in_front) == 9
    assert max(row["runs"] for row in in_front) <= 1, in_front
    assert query(installation, "SELECT * FROM stage_overlaps") == []
    assert set(column(installation, "SELECT status FROM batch_processing")) == {"COMPLETED"}


async def test_an_interrupted_backfill_is_resumed_where_it_stopped(
    installation: Settings, programs: Path, loaded: list[str], tmp_path: Path
) -> None:
    (programs / "seconds").write_text("0.5")
    argv = [sys.executable, "-m", "flows.cli.flow_process", "flows.backfill:backfill"]
    argv += ['{"status": "COMPLETED", "window": 1}', str(tmp_path / "outcome")]
    with subprocess.Popen(argv) as process:  # noqa: ASYNC220 - its start may block
        second = "SELECT 1 FROM stage_runs WHERE batch_id = %s AND attempt = 2 AND stage = 'convert'"
        while not query(installation, second, loaded[1]):
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


async def test_resume_runs_failed_batches_from_the_failed_stage(
    installation: Settings, programs: Path, loaded: list[str]
) -> None:
    (programs / "broken").touch()
    failed = await backfill(batch_ids=loaded[:2], return_state=True)
    assert "2 of 2 batches failed" in str(failed.message)
    (programs / "broken").unlink()
    assert (await backfill(resume=failed.state_details.flow_run_id))["completed"] == 2
    assert runs_of(installation, loaded[0])[3:] == ["extract", "convert", "convert", "store"]
