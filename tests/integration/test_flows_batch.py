"""One batch from its stored files to rows: its stages, its status and its owner, on a real Prefect server."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ledger_rows import query, seen
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from stage_commands import COPY, FAIL_WHILE, command, configure, drop

from blocks import StageCommand
from flows.errors import BatchBusy, BatchesFailed
from flows.ledger.batches import own_batch
from flows.ledger.locks import FENCE, fence_key
from flows.process_batch import process_batch
from flows.process_inbox import process_inbox
from flows.samples import write_samples
from flows.settings import Settings
from flows.stages.runner.contract import FileOutcome, Result


async def test_content_that_arrives_again_replaces_a_missing_stored_file_and_its_batch_runs_again(
    installation: Settings,
) -> None:
    await configure()
    expected = write_samples(installation.inbox, files=2, messages=20, seed=8)
    first = next(iter(installation.inbox.iterdir()))
    kept = installation.home / first.name
    shutil.copy(first, kept)
    await process_inbox()
    lost = "SELECT stored_path, batch_id FROM source_files JOIN batch_files USING (source_id) WHERE name = %s"
    ((stored, batch_id),) = (row.values() for row in query(installation, lost, first.name))
    Path(stored).unlink()
    shutil.rmtree(installation.work)
    query(installation, "UPDATE batch_processing SET status = 'QUEUED'")
    await process_batch(batch_id)
    status = "SELECT status, error FROM batch_files JOIN source_files USING (source_id) WHERE name = %s"
    (file,) = query(installation, status, first.name)
    assert file["status"] == "QUARANTINED"
    assert file["error"].startswith("the stored file is gone from disk")

    kept.rename(installation.inbox / first.name)
    assert await process_inbox() == {"batches": 1, "completed": 1, "busy": 0}
    assert query(installation, status, first.name) == [{"status": "STORED", "error": None}]
    assert query(installation, "SELECT count(*) AS n FROM messages") == [{"n": expected.messages}]


async def test_a_stored_file_that_was_changed_is_received_again_as_what_it_is(
    installation: Settings,
) -> None:
    await configure()
    first = write_samples(installation.inbox, files=2, messages=20, seed=8)
    other = write_samples(installation.home / "other", files=1, messages=20, seed=9)
    (replacement,) = (installation.home / "other").iterdir()
    await process_inbox()
    stored = [Path(row["stored_path"]) for row in query(installation, SOURCES)]
    stored[0].write_bytes(replacement.read_bytes())
    stored[1].write_bytes(bytes([stored[1].read_bytes()[0] ^ 1]) + stored[1].read_bytes()[1:])
    shutil.rmtree(installation.work)
    query(installation, "UPDATE batch_processing SET status = 'QUEUED'")
    await process_batch("batch_000001")
    changed = query(installation, SOURCES)
    assert [row["status"] for row in changed] == ["QUARANTINED"] * 2
    assert all("it was changed after it was received" in row["error"] for row in changed)
    back = {path.name for path in installation.inbox.iterdir()}
    assert back == {row["name"] for row in changed}

    await process_inbox()
    assert [row["status"] for row in query(installation, SOURCES)[2:]].count("STORED") == 1
    stored_messages = [{"n": first.messages + other.messages}]
    assert query(installation, "SELECT count(*) AS n FROM messages") == stored_messages


#: All sources with their outcomes.
SOURCES = "SELECT * FROM source_files JOIN batch_files USING (source_id) ORDER BY source_id"


@pytest.mark.usefixtures("copying_stages")
async def test_transient_errors_are_retried(installation: Settings, tmp_path: Path) -> None:
    await configure(task_retries=2)
    tries = tmp_path / "tries"
    fail_once = (
        f"path = {str(tries)!r}\nopen(path, 'a').write('x')\nif len(open(path).read()) < 2: exit('once')\n"
    )
    await command("extract", fail_once + COPY)
    drop(installation, 1)
    await process_inbox()
    runs = query(
        installation, "SELECT attempt, outcome, error FROM stage_runs WHERE stage = 'extract' ORDER BY 1"
    )
    assert [(row["attempt"], row["outcome"]) for row in runs] == [(1, "FAILED"), (2, "COMPLETED")]
    assert "once" in runs[0]["error"]


@pytest.mark.usefixtures("copying_stages")
async def test_a_command_that_cannot_be_run_is_not_retried(installation: Settings) -> None:
    await configure(task_retries=3)
    await StageCommand(command=["/no/such/program"]).save("extract", overwrite=True)
    drop(installation, 1)
    with pytest.raises(BatchesFailed, match=r"StageMisconfigured: .*/no/such/program"):
        await process_inbox()
    assert query(installation, "SELECT count(*) AS n FROM stage_runs") == [{"n": 1}]


@pytest.mark.usefixtures("copying_stages")
async def test_the_status_of_a_batch_is_that_of_the_lanes(installation: Settings, tmp_path: Path) -> None:
    """Whenever it changes, it is QUEUED or the stage at work; FAILED only at the end of a run."""
    seen = """
        CREATE TABLE seen (number serial, status text, at_work text);
        CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO seen (status, at_work) SELECT b.status, (
                SELECT stage FROM stage_runs WHERE started_at IS NOT NULL AND finished_at IS NULL)
            FROM batch_processing b; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER see AFTER UPDATE ON batch_processing DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION see();
    """
    with psycopg.connect(installation.database) as connection:
        connection.execute(seen)
    await configure(task_retries=1)
    mark = tmp_path / "mark"
    mark.touch()
    await command("convert", FAIL_WHILE.format(mark=str(mark), name="0.zip"))
    drop(installation, 1)
    with pytest.raises(BatchesFailed):
        await process_inbox()
    mark.unlink()
    (batch,) = query(installation, "SELECT batch_id FROM batch_processing")
    await process_batch(batch["batch_id"])
    changes = query(installation, "SELECT status, at_work FROM seen ORDER BY number")
    kept = [change for change, before in zip(changes, [None, *changes], strict=False) if change != before]
    waits = {"status": "QUEUED", "at_work": None}
    extract, convert, store = (
        {"status": status, "at_work": stage}
        for stage, status in (("extract", "EXTRACTING"), ("convert", "CONVERTING"), ("store", "STORING"))
    )
    failed = [extract, waits, convert, waits, convert, waits, {"status": "FAILED", "at_work": None}]
    again = [waits, convert, waits, store, waits, {"status": "COMPLETED", "at_work": None}]
    assert kept == failed + again


async def test_status_0_without_an_output_is_a_failure(installation: Settings) -> None:
    await configure(task_retries=0)
    await command("extract", "print('done')")
    drop(installation, 1)
    with pytest.raises(BatchesFailed, match="left no output"):
        await process_inbox()


@pytest.mark.usefixtures("copying_stages")
async def test_a_batch_has_one_owner(installation: Settings) -> None:
    await configure()
    drop(installation, 1)
    await process_inbox()
    (batch,) = query(installation, "SELECT batch_id FROM batch_processing")
    async with own_batch(batch["batch_id"], installation.database):
        with pytest.raises(BatchBusy, match=f"another run is working on {batch['batch_id']}"):
            await process_batch(batch["batch_id"])
    assert (await process_batch(batch["batch_id"]))["status"] == "COMPLETED"
    assert query(installation, "SELECT count(*) AS n FROM stage_runs") == [{"n": 3}]  # no stage ran twice


async def test_the_reasons_of_all_stages_are_kept_once(installation: Settings) -> None:
    (row,) = query(
        installation,
        "WITH s AS (INSERT INTO source_files (sha256, name, size_bytes, stored_path)"
        " VALUES (repeat('b', 64), 'a.zip', 1, '/x') RETURNING source_id), b AS (INSERT INTO batch_processing"
        " (file_count) VALUES (1) RETURNING batch_id) INSERT INTO batch_files (batch_id, source_id, position)"
        " SELECT batch_id, source_id, 1 FROM s, b RETURNING batch_id, source_id",
    )
    entry = f"{row['source_id']:06d}-a.zip"
    left_out, cut = FileOutcome(entry, "partial", "'b' left out"), FileOutcome(entry, "partial", "cut off")
    async with own_batch(row["batch_id"], installation.database) as batch:
        for stage, outcome in 2 * [("extract", left_out), ("convert", cut)]:
            await batch.record(stage, Result(stage, [outcome]))
        await batch.record("store", Result("store", [FileOutcome(entry)]))
    assert query(installation, "SELECT status, error FROM batch_files") == [
        {"status": "PARTIAL", "error": "'b' left out; cut off"}
    ]


@pytest.mark.usefixtures("copying_stages")
async def test_a_run_that_lost_its_lock_leaves_a_batch_that_another_completed(installation: Settings) -> None:
    await configure()
    drop(installation, 1)
    await process_inbox()
    (batch,) = query(installation, "SELECT batch_id FROM batch_processing")
    async with own_batch(batch["batch_id"], installation.database) as owned:
        await owned.owner.session.close()
        with pytest.raises(BatchBusy, match="another run has completed"):
            await owned.ensure_owned()


@pytest.mark.usefixtures("copying_stages")
async def test_a_batch_that_another_run_acquired_during_the_wait_is_left_to_it(
    installation: Settings,
) -> None:
    await configure()
    drop(installation, 1)
    await process_inbox()
    query(installation, "UPDATE batch_processing SET status = 'QUEUED'")
    shutil.rmtree(installation.work)
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted HAVING count(*) = %s"
    with (
        psycopg.connect(installation.database, autocommit=True) as holder,
        psycopg.connect(installation.database, autocommit=True) as other,
    ):
        holder.execute("SELECT pg_advisory_lock(%s, %s)", [FENCE, fence_key(1)])
        running = asyncio.create_task(process_batch("batch_000001"))
        await seen(installation, waiting, 1)
        acquire = "SELECT pg_advisory_lock(hashtextextended('batch_000001', 0))"
        acquiring = asyncio.create_task(asyncio.to_thread(other.execute, acquire))
        await seen(installation, waiting, 2)
        terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
        query(installation, terminate, "tdp batch_000001")
        await acquiring
        again = "SELECT 1 FROM pg_stat_activity WHERE application_name = %s"
        await seen(installation, again, "tdp batch_000001")
        holder.execute("SELECT pg_advisory_unlock(%s, %s)", [FENCE, fence_key(1)])
        with pytest.raises(BatchBusy, match="another run is working on"):
            await running
    assert not (installation.work / "batch_000001" / "extract").exists()


@pytest.mark.usefixtures("copying_stages")
async def test_log_lines_and_timings_reach_the_prefect_ui(installation: Settings) -> None:
    await configure()
    drop(installation, 1)
    await process_inbox()
    (run,) = query(installation, "SELECT batch_id, flow_run_id FROM batch_processing")
    wanted = [
        rf"Waiting for extraction lock  batch_id={run['batch_id']}",
        "Extraction lock acquired",
        rf"Extract stage completed  batch_id={run['batch_id']} duration=\d+\.\d\ds",
        "Extraction lock released",
        "Conversion lock acquired",
        "Store lock released",
    ]
    messages = await logs_of(run["flow_run_id"], len(wanted))
    found = iter(messages)
    assert all(any(re.fullmatch(line, message) for message in found) for line in wanted), messages
    assert await artifacts_of(run["flow_run_id"]) == []  # the parent's summary and timeline have its timings
    query(installation, "UPDATE batch_processing SET status = 'QUEUED' RETURNING batch_id")
    alone = await process_batch(run["batch_id"], return_state=True)
    assert await artifacts_of(alone.state_details.flow_run_id) == ["batch-timings"]


async def artifacts_of(flow_run_id: Any) -> list[str | None]:
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
    async with get_client() as client:
        return [artifact.key for artifact in await client.read_artifacts(artifact_filter=wanted)]


async def logs_of(flow_run_id: Any, at_least: int) -> list[str]:
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
    from prefect.client.schemas.sorting import LogSort

    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id]))
    async with asyncio.timeout(30), get_client() as client:
        while True:  # Prefect sends logs in the background
            logs = await client.read_logs(wanted, limit=200, sort=LogSort.TIMESTAMP_ASC)
            if any(log.message == "Store lock released" for log in logs) and len(logs) >= at_least:
                return [log.message for log in logs]
            await asyncio.sleep(0.2)
