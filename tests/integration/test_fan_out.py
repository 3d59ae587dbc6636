"""Batches as runs of their own on the work pool: a real worker, real failures, real kills."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from block_documents import write_pipeline, write_stage
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.states import AwaitingRetry, Cancelling
from psycopg.rows import dict_row

from deployments.apply import apply
from flows import services
from flows.batches.stopping import CANCELLED, DELETED
from flows.operations.recovery import recover
from flows.settings import Settings

OBSTRUCTED = Path(__file__).parents[1] / "programs" / "obstructed.sh"
UNFINISHED = "SELECT batch_id FROM batch_processing WHERE status NOT IN ('COMPLETED', 'FAILED') ORDER BY 1"
AT_WORK = """
SELECT pid FROM stage_runs WHERE batch_id = %s AND started_at IS NOT NULL AND finished_at IS NULL
"""
ATTEMPTS = "SELECT batch_id, stage, outcome FROM stage_runs ORDER BY stage_run_id"


@pytest.fixture
async def client(installation: Settings) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


@pytest.fixture
def flags(tmp_path: Path) -> Path:
    """The folder whose flags stop stages: see obstructed.sh."""
    folder = tmp_path / "flags"
    folder.mkdir()
    return folder


@pytest.fixture
async def pool(installation: Settings, client: PrefectClient, flags: Path) -> AsyncIterator[None]:
    """Deployments without their schedules, a worker, three files in the inbox, stages that flags stop."""
    await apply(installation)
    for deployment in await client.read_deployments():
        for schedule in deployment.schedules:
            await client.update_deployment_schedule(deployment.id, schedule.id, active=False)
    for stage in ("extract", "convert", "store"):
        flag = f"{flags}/{{batch_id}}.{stage}"
        write_stage(stage, "sh", str(OBSTRUCTED), flag, "cp", "-r", "{input}", "{output}")
    write_pipeline(batch_size=1, window=2, task_retries=1, fan_out="work-pool", keep_work_hours=9)
    installation.inbox.mkdir(parents=True)
    for number in range(3):
        (installation.inbox / f"{number}.zip").write_text(f"{installation.root} {number}")
    with services.worker(installation):
        yield
    for deployment in await client.read_deployments():
        await client.delete_deployment(deployment.id)


def rows(settings: Settings, statement: str, *values: object) -> list[dict[str, Any]]:
    with psycopg.connect(settings.database, row_factory=dict_row, autocommit=True) as connection:
        return connection.execute(statement.encode(), values).fetchall()


async def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Return what is true at last; what other processes do is only to be seen by looking."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.1)
    return value


async def start(
    client: PrefectClient, name: str = "process-inbox/scheduled", **parameters: object
) -> FlowRun:
    deployment = await client.read_deployment_by_name(name)
    return await client.create_flow_run_from_deployment(deployment.id, parameters=parameters)


async def ended(client: PrefectClient, run: FlowRun, runs: int = 1) -> FlowRun:
    """Return the run once it has ended for the ``runs``-th time."""
    async with asyncio.timeout(150):
        while True:
            found = await client.read_flow_run(run.id)
            if found.state and found.state.is_final() and found.run_count == runs:
                return found
            await asyncio.sleep(0.2)


async def children(client: PrefectClient, run: FlowRun) -> list[tuple[str, str]]:
    """Return name and state of every child run, the oldest first."""
    wanted = FlowRunFilter.model_validate({"parent_flow_run_id": {"any_": [str(run.id)]}})
    found = sorted(await client.read_flow_runs(flow_run_filter=wanted), key=lambda child: child.created)
    assert all(child.deployment_id and child.parent_task_run_id for child in found)
    return [(child.name, str(child.state_name)) for child in found]


async def working(settings: Settings, batch_id: str) -> psutil.Process:
    """Return the flow process that works on the batch, once a stage of it is at work."""
    (row,) = await until(lambda: rows(settings, AT_WORK, batch_id))
    return psutil.Process(row["pid"])


@pytest.mark.matrix
@pytest.mark.usefixtures("pool")
async def test_a_batch_whose_run_dies_is_started_again_and_a_failed_one_is_named_and_retried(
    installation: Settings, client: PrefectClient, flags: Path
) -> None:
    first, second, third = (f"batch_{number:06}" for number in (1, 2, 3))
    hold, fail = flags / f"{second}.extract.hold", flags / f"{third}.convert.fail"
    hold.touch()
    fail.touch()
    parent = await start(client)
    killed = await working(installation, second)
    killed.kill()
    hold.unlink()

    failed = await ended(client, parent)
    assert failed.state
    assert failed.state.name == "Failed"
    assert f"1 of 3 batches failed: {third} (BatchFailed: StageFailed: " in str(failed.state.message)
    assert "broken on purpose" in str(failed.state.message)
    begun = [(first, "Completed"), (second, "Completed"), (second, "Crashed"), (third, "Failed")]
    assert sorted(await children(client, parent)) == begun

    fail.unlink()
    await client.set_flow_run_state(parent.id, AwaitingRetry(), force=True)
    done = await ended(client, parent, runs=2)
    assert done.state
    assert done.state.name == "Completed", done.state
    assert sorted(await children(client, parent)) == [*begun[:3], (third, "Completed"), (third, "Failed")]
    assert rows(installation, "SELECT * FROM stage_overlaps") == []
    attempts = [tuple(row.values()) for row in rows(installation, ATTEMPTS)]
    assert sorted(attempt for attempt in attempts if attempt[2] != "COMPLETED") == [
        (second, "extract", "LOST"),
        *[(third, "convert", "FAILED")] * 2,
    ]
    whole = [(batch, stage) for batch in (first, second, third) for stage in ("convert", "extract", "store")]
    assert sorted(attempt[:2] for attempt in attempts if attempt[2] == "COMPLETED") == whole


@pytest.mark.matrix
@pytest.mark.usefixtures("pool")
async def test_a_cancelled_run_takes_its_children_with_it(
    installation: Settings, client: PrefectClient, flags: Path
) -> None:
    for number in range(1, 4):
        (flags / f"batch_{number:06}.extract.hold").touch()
    parent = await start(client)
    at_work = "SELECT pid FROM stage_runs WHERE started_at IS NOT NULL"
    (row,) = await until(lambda: rows(installation, at_work))
    flow = psutil.Process(row["pid"])
    await client.set_flow_run_state(parent.id, Cancelling())
    async with asyncio.timeout(120):
        while {state for _, state in await children(client, parent)} != {"Cancelled"}:
            await asyncio.sleep(0.2)
    assert (await client.read_flow_run(parent.id)).state_name == "Cancelled"
    await until(lambda: not flow.is_running())
    left = rows(installation, "SELECT status, held_because FROM batch_processing")
    assert left == [{"status": "QUEUED", "held_because": CANCELLED}] * 3
    assert (await recover(installation)).batches == []  # they wait for an operator
    state = (await client.read_flow_run(parent.id)).state
    assert state and str(state.message).startswith("Stopped: "), state


@pytest.mark.matrix
@pytest.mark.usefixtures("pool")
async def test_a_deleted_child_ends_and_its_batch_is_held_while_the_others_go_on(
    installation: Settings, client: PrefectClient, flags: Path
) -> None:
    hold = flags / "batch_000002.extract.hold"
    hold.touch()
    parent = await start(client)
    flow = await working(installation, "batch_000002")
    wanted = FlowRunFilter.model_validate({"parent_flow_run_id": {"any_": [str(parent.id)]}})
    (child,) = [
        run for run in await client.read_flow_runs(flow_run_filter=wanted) if run.name == "batch_000002"
    ]
    await client.delete_flow_run(child.id)
    await until(lambda: not flow.is_running(), 15)
    assert (await ended(client, parent)).state_name == "Completed"
    held = rows(installation, "SELECT batch_id, held_because FROM batch_processing WHERE held_at IS NOT NULL")
    assert held == [{"batch_id": "batch_000002", "held_because": DELETED}]


@pytest.mark.matrix
@pytest.mark.usefixtures("pool")
async def test_the_children_of_a_killed_run_finish_and_recovery_requeues_the_other_batches(
    installation: Settings, client: PrefectClient, flags: Path
) -> None:
    hold = flags / "batch_000001.extract.hold"
    hold.touch()
    parent = await start(client)
    flow = await working(installation, "batch_000001")
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("PREFECT__FLOW_RUN_ID") == str(parent.id):
                process.kill()
    assert (await ended(client, parent)).state_name == "Crashed"
    assert flow.is_running()
    with services.recovery(installation):
        await until(lambda: rows(installation, "SELECT 1 FROM run_batches HAVING count(*) > 3"))
        hold.unlink()
        await until(lambda: not rows(installation, UNFINISHED))
    lost = [row for row in rows(installation, ATTEMPTS) if row["outcome"] != "COMPLETED"]
    assert lost == []
    assert rows(installation, "SELECT count(*) AS n FROM stage_runs") == [{"n": 9}]


@pytest.mark.matrix
@pytest.mark.usefixtures("pool")
async def test_a_backfill_runs_on_the_pool_as_well_and_lets_others_go_first(
    installation: Settings, client: PrefectClient
) -> None:
    assert (await ended(client, await start(client))).state_name == "Completed"
    again = await start(client, "backfill/adhoc", batch_ids=["batch_000002"], from_stage="convert")
    assert (await ended(client, again)).state_name == "Completed"
    assert await children(client, again) == [("batch_000002", "Completed")]
    wanted = FlowRunFilter.model_validate({"parent_flow_run_id": {"any_": [str(again.id)]}})
    (child,) = await client.read_flow_runs(flow_run_filter=wanted)
    assert child.parameters == {"batch_id": "batch_000002", "yielding": True}
    attempts = [tuple(row.values()) for row in rows(installation, ATTEMPTS)]
    assert attempts[9:] == [("batch_000002", stage, "COMPLETED") for stage in ("convert", "store")]
