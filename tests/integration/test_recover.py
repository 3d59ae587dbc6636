"""Recovery of runs that were really killed: they end Crashed, and other runs process their batches."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from block_documents import write_stage
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelled, Crashed, Pending
from psycopg.rows import dict_row

from flows import services
from flows.errors import BatchBusy
from flows.ledger.batches import own_batch
from flows.ledger.owner import own_run
from flows.operations import recovery
from flows.operations.recovery import _GRACE, Recovered, recover
from flows.process_batch import process_batch
from flows.process_inbox import process_inbox
from flows.settings import Settings
from flows.stages.runner.contract import Result, new_output, write_result


def rows(settings: Settings, statement: str, *values: object) -> list[dict[str, Any]]:
    with psycopg.connect(settings.database, row_factory=dict_row, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []


async def until(condition: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition was not met in time"
        await asyncio.sleep(0.1)
    return value


#: The backends that hold the lock on a flow run's id.
HOLDERS = """
SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1
AND (classid::bigint << 32 | objid::bigint) = hashtextextended(%s, 1)
"""

#: The flow runs in a ledger: parents and subflows.
RUNS = """
SELECT flow_run_id FROM run_batches
UNION SELECT flow_run_id FROM stage_runs WHERE flow_run_id IS NOT NULL
"""


@pytest.fixture(autouse=True)
def checked_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of this process do not wait for 3 s between their two checks."""
    monkeypatch.setattr(recovery, "_CHECK_INTERVAL", 0.3)


@pytest.fixture
async def client(installation: Settings) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


@pytest.fixture
async def stages(installation: Settings, tmp_path: Path) -> AsyncIterator[Path]:
    """Three files in the inbox; the first extract hangs, and creates the returned folder when it does."""
    hung = tmp_path / "hung"
    script = f"mkdir {hung} 2>/dev/null && exec sleep 600; mkdir {{output}} && touch {{output}}/rows"
    write_stage("extract", "sh", "-c", script)
    for stage in ("convert", "store"):
        write_stage(stage, "sh", "-c", "mkdir {output} && touch {output}/rows")
    installation.inbox.mkdir(parents=True)
    for number in range(3):
        file = installation.inbox / f"{number}.zip"
        file.write_text(f"{installation.root} {number}")
        os.utime(file, (1, 1))
    yield hung
    for stage in ("extract", "convert", "store"):
        write_stage(stage)


@pytest.fixture
def flow_process(stages: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An inbox run without a worker, whose first extract hangs."""
    argv = [sys.executable, "-m", "flows.cli.flow_process", "flows.process_inbox:process_inbox"]
    argv += ['{"batch_size": 1}', str(tmp_path / "outcome")]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        yield process
        process.kill()


def extracting(settings: Settings) -> list[dict[str, Any]]:
    return rows(
        settings,
        "SELECT pid, flow_run_id FROM stage_runs WHERE started_at IS NOT NULL AND finished_at IS NULL",
    )


async def states(client: PrefectClient, settings: Settings) -> list[str]:
    """Return the state name of every flow run in this test's ledger."""
    known = rows(settings, RUNS)
    found = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [str(r["flow_run_id"]) for r in known]}})
    )
    return sorted(str(run.state_name) for run in found)


@pytest.mark.usefixtures("deployments")
async def test_batches_of_a_killed_run_are_claimed_and_it_ends_crashed(
    installation: Settings, client: PrefectClient, stages: Path
) -> None:
    inbox = await client.read_deployment_by_name("process-inbox/scheduled")
    with services.worker(installation), services.recovery(installation):
        first = await client.create_flow_run_from_deployment(inbox.id)
        # This is after the start was recorded. If the run were killed earlier, the next extract would hang.
        await until(stages.exists, 60)
        (hung,) = extracting(installation)
        os.kill(hung["pid"], signal.SIGKILL)
        killed = time.monotonic()
        claimed = "SELECT 1 FROM run_batches WHERE flow_run_id <> %s"
        await until(lambda: rows(installation, claimed, first.id), 60)
        claimed_after = time.monotonic() - killed
        unfinished = "SELECT 1 FROM batch_processing WHERE status <> 'COMPLETED'"
        await until(lambda: not rows(installation, unfinished), 60)
        while "Running" in (found := await states(client, installation)):
            assert time.monotonic() < killed + 60, found
            await asyncio.sleep(0.2)
        crashed_after = time.monotonic() - killed

    print(f"claimed {claimed_after:.1f} s, crashed {crashed_after:.1f} s after the kill")  # noqa: T201 - a figure
    assert claimed_after < 30
    assert rows(installation, "SELECT * FROM stage_overlaps") == []
    assert found == ["Completed", "Completed", "Crashed", "Crashed"]  # two parents and their subflows


@pytest.mark.usefixtures("deployments")
async def test_a_dead_run_without_a_worker_ends_crashed_with_its_children(
    installation: Settings,
    client: PrefectClient,
    stages: Path,
    flow_process: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(_GRACE, StateType.RUNNING, 2.0)
    await until(stages.exists, 60)
    (hung,) = extracting(installation)
    # Dead runs of other tests may be found at any time.
    before = await recover(installation)
    assert hung["flow_run_id"] not in before.flow_runs
    assert replace(before, flow_runs=[], task_runs=[]) == Recovered()
    flow_process.send_signal(signal.SIGKILL)
    flow_process.wait()
    dead = {row["flow_run_id"] for row in rows(installation, RUNS)}
    assert hung["flow_run_id"] in dead
    first = await recover(installation)
    crashed = set(first.flow_runs)
    while not dead <= crashed:  # each run has its own grace time from its start on
        crashed |= set((await recover(installation)).flow_runs)

    assert set(await states(client, installation)) == {"Crashed"}
    open_tasks = TaskRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING", "PENDING"]}}})
    of_dead = FlowRunFilter.model_validate({"id": {"any_": [str(run_id) for run_id in dead]}})
    assert await client.read_task_runs(flow_run_filter=of_dead, task_run_filter=open_tasks) == []
    # There is no worker that would start the run; it is requested only once.
    assert first.requested_run is not None
    again = await recover(installation)
    assert dead & set(again.flow_runs) == set()
    of_this_ledger = Recovered(batches=["batch_000001", "batch_000002", "batch_000003"])
    assert replace(again, flow_runs=[], task_runs=[]) == of_this_ledger


@pytest.mark.parametrize(("state", "claimed"), [(Crashed(), True), (Cancelled(), False)])
async def test_batches_of_a_cancelled_run_wait_for_the_schedule(
    installation: Settings, client: PrefectClient, state: State[Any], claimed: bool
) -> None:
    parent = await client.create_flow_run(process_inbox, state=state)
    batch = "INSERT INTO batch_processing (file_count) VALUES (0) RETURNING batch_id"
    (row,) = rows(installation, batch)
    listed = "INSERT INTO run_batches (flow_run_id, position, batch_id) VALUES (%s, 0, %s)"
    rows(installation, listed, parent.id, row["batch_id"])
    done = await recover(installation)
    assert done.batches == ([row["batch_id"]] if claimed else [])


async def test_a_run_whose_process_never_started_is_dead_unless_its_batch_is_held(
    installation: Settings, client: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_GRACE, StateType.PENDING, -3.0)  # the server reports its time in whole seconds
    (row,) = rows(installation, "INSERT INTO batch_processing (file_count) VALUES (0) RETURNING batch_id")
    run = await client.create_flow_run(process_batch, parameters=row, state=Pending())
    async with own_batch(row["batch_id"], installation.database):
        assert run.id not in (await recover(installation)).flow_runs
    assert run.id in (await recover(installation)).flow_runs


async def test_slots_counted_for_an_idle_stage_are_released(
    installation: Settings, client: PrefectClient
) -> None:
    async def active() -> list[int]:
        limits = [await client.read_global_concurrency_limit_by_name(name) for name in ("convert", "store")]
        return [limit.active_slots for limit in limits]

    at_work = """
        WITH batch AS (INSERT INTO batch_processing (file_count) VALUES (0) RETURNING batch_id)
        INSERT INTO stage_runs (batch_id, stage, attempt, host, pid, fenced_at)
        SELECT batch_id, 'convert', 1, 'elsewhere', 1, clock_timestamp() FROM batch"""
    rows(installation, at_work)
    for stage, slots in (("convert", 1), ("store", 3)):
        await client.update_global_concurrency_limit(stage, GlobalConcurrencyLimitUpdate(active_slots=slots))
    assert (await recover(installation)).slots == {"store": 3}
    assert await active() == [1, 0]

    ended = "UPDATE stage_runs SET outcome = 'COMPLETED', finished_at = clock_timestamp() - interval '{} s'"
    rows(installation, ended.format(1))
    assert (await recover(installation)).slots == {}
    rows(installation, ended.format(60))
    assert (await recover(installation)).slots == {"convert": 1}
    assert await active() == [0, 0]


async def test_a_run_reacquires_its_lock_when_its_session_was_lost(installation: Settings) -> None:
    run_id = uuid4()
    async with own_run(run_id, installation.database):
        (before,) = rows(installation, HOLDERS, str(run_id))
        rows(installation, "SELECT pg_terminate_backend(%s)", before["pid"])
        await until(lambda: rows(installation, HOLDERS, str(run_id)) not in ([], [before]), 10)
        with pytest.raises(BatchBusy):
            async with own_run(run_id, installation.database):
                pass
    await until(lambda: rows(installation, HOLDERS, str(run_id)) == [], 10)  # the backend ends on its own


@pytest.mark.usefixtures("stages")
async def test_a_complete_output_of_a_dead_run_is_recorded_and_not_made_again(installation: Settings) -> None:
    write_stage("extract", "sh", "-c", "exit 64")
    (row,) = rows(installation, "INSERT INTO batch_processing (file_count) VALUES (0) RETURNING batch_id")
    died = (
        "INSERT INTO stage_runs (batch_id, stage, attempt, host, pid, fenced_at, finished_at, outcome)"
        " VALUES (%s, 'extract', 1, 'here', 1, now(), now(), 'LOST')"
    )
    rows(installation, died, row["batch_id"])
    with new_output(installation.work / row["batch_id"] / "extract") as directory:
        write_result(directory, Result("extract"))

    assert (await process_batch(row["batch_id"]))["status"] == "COMPLETED"

    ran = rows(installation, "SELECT stage, outcome FROM stage_runs ORDER BY stage_run_id")
    assert [tuple(run.values()) for run in ran] == [
        ("extract", "LOST"),
        ("extract", "COMPLETED"),
        ("convert", "COMPLETED"),
        ("store", "COMPLETED"),
    ]
