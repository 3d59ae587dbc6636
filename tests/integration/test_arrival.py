"""Arrivals: one run is requested for all that waits, and none while an installation is idle."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.client.schemas.responses import DeploymentResponse
from prefect.states import Completed, Late, Running
from psycopg.rows import dict_row

from blocks import PIPELINE, PipelineConfig
from flows import services
from flows.domain import INBOX_DEPLOYMENT
from flows.ledger.connection import connection
from flows.ledger.intake import planning
from flows.ledger.session import Session, connect
from flows.maintain import maintain
from flows.operations.arrival import Arrivals
from flows.process_inbox import process_inbox
from flows.reports import status
from flows.samples import write_samples
from flows.settings import Settings

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
#: A user that owns nothing here and has no capabilities.
NOBODY = 65534


@pytest.fixture
async def client(installation: Settings) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[Session]:
    async with await connect(database_url, "test") as session:
        yield session


@pytest.fixture
async def deployment(deployments: None, client: PrefectClient) -> UUID:
    """The deployment of the inbox."""
    return (await client.read_deployment_by_name(INBOX_DEPLOYMENT)).id


@pytest.fixture
def inbox(installation: Settings) -> Path:
    installation.inbox.mkdir(parents=True)
    return installation.inbox


def rows(settings: Settings, statement: str, *values: object) -> list[dict[str, Any]]:
    with psycopg.connect(settings.database, row_factory=dict_row, autocommit=True) as connected:
        cursor = connected.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []


async def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition was not met in time"
        await asyncio.sleep(0.1)
    return value


async def set_state(client: PrefectClient, run_id: UUID | None, state: State[Any]) -> None:
    assert run_id
    await client.set_flow_run_state(run_id, state, force=True)


def has_planned(settings: Settings, run_id: UUID | None) -> None:
    """Let the ledger have a list of the run, as when it has planned."""
    (batch,) = rows(settings, "INSERT INTO batch_processing (file_count) VALUES (0) RETURNING batch_id")
    listed = "INSERT INTO run_batches (flow_run_id, position, batch_id) VALUES (%s, 0, %s)"
    rows(settings, listed, run_id, batch["batch_id"])


async def test_one_run_is_requested_for_all_that_waits(
    installation: Settings, client: PrefectClient, ledger: Session, deployment: UUID, inbox: Path
) -> None:
    first, second = Arrivals(installation), Arrivals(installation)
    assert await first.look(client, ledger) is None
    (inbox / "a.zip").write_text("a")
    async with await connect(installation.database, "test") as other:
        found = await asyncio.gather(first.look(client, ledger), second.look(client, other))
    (run_id,) = set(found) - {None}
    run = await client.read_flow_run(run_id)
    assert (run.deployment_id, run.state_name) == (deployment, "Scheduled")
    assert "arrival" in run.tags

    (inbox / "b.zip").write_text("b")
    for state in (Late(), Running()):  # no worker takes it; it is being planned
        await set_state(client, run_id, state)
        assert await first.look(client, ledger) is None
    has_planned(installation, run_id)
    (inbox / "c.zip").write_text("c")
    assert await first.look(client, ledger) not in {None, run_id}


async def test_no_run_above_the_limit_is_requested(
    installation: Settings, client: PrefectClient, ledger: Session, deployment: UUID, inbox: Path
) -> None:
    limit = (await client.read_deployment(deployment)).global_concurrency_limit
    assert limit
    arrivals, open_runs = Arrivals(installation), []
    for number in range(limit.limit):
        (inbox / f"{number}.zip").write_text("x")
        open_runs.append(await arrivals.look(client, ledger))
        await set_state(client, open_runs[-1], Running())
        has_planned(installation, open_runs[-1])
    (inbox / "one more.zip").write_text("x")
    assert await arrivals.look(client, ledger) is None
    await set_state(client, open_runs[0], Completed())
    assert await arrivals.look(client, ledger) not in {None, *open_runs}


async def test_no_run_is_requested_while_the_deployment_is_paused(
    installation: Settings, client: PrefectClient, ledger: Session, deployment: UUID, inbox: Path
) -> None:
    (inbox / "a.zip").write_text("a")
    arrivals = Arrivals(installation)
    await client.pause_deployment(deployment)
    assert await arrivals.look(client, ledger) is None
    await client.resume_deployment(deployment)
    assert await arrivals.look(client, ledger)


@pytest.mark.usefixtures("deployment")
async def test_a_file_is_waited_for_while_it_is_open_for_writing(
    installation: Settings, client: PrefectClient, ledger: Session, inbox: Path
) -> None:
    arrivals = Arrivals(installation)
    with (inbox / "a.zip").open("w"):
        assert await arrivals.look(client, ledger) is None
    assert await arrivals.look(client, ledger)


@pytest.mark.usefixtures("deployment")
async def test_a_file_that_a_run_leaves_is_not_requested_at_every_check(
    installation: Settings, client: PrefectClient, ledger: Session, inbox: Path
) -> None:
    (inbox / "a.zip").write_text("a")
    arrivals = Arrivals(installation)
    await set_state(client, await arrivals.look(client, ledger), Completed())
    assert await arrivals.look(client, ledger) is None


@pytest.mark.usefixtures("deployment")
async def test_an_entry_left_in_the_inbox_is_named_by_one_run(
    installation: Settings, client: PrefectClient, ledger: Session, inbox: Path
) -> None:
    os.mkfifo(inbox / "pipe")
    (inbox / "notes.txt").write_text("socks\n")
    assert await Arrivals(installation).look(client, ledger)
    await process_inbox()
    assert {row["name"] for row in rows(installation, "SELECT name FROM left_files")} == {"pipe", "notes.txt"}
    assert await Arrivals(installation).look(client, ledger) is None
    with connection(installation.database, readonly=True, autocommit=True) as reading:
        assert status(reading).left == 2


@pytest.mark.usefixtures("deployment", "inbox")
async def test_a_source_without_a_batch_is_requested(
    installation: Settings, client: PrefectClient, ledger: Session, tmp_path: Path
) -> None:
    stored = tmp_path / "stored"
    source = """INSERT INTO source_files (sha256, name, size_bytes, stored_path)
        VALUES (repeat('0', 64), 'a.zip', 1, %s)"""
    rows(installation, source, str(stored))
    assert await Arrivals(installation).look(client, ledger) is None
    stored.write_text("a")
    await set_state(client, await Arrivals(installation).look(client, ledger), Completed())
    stored.unlink()

    announced = """INSERT INTO arrivals (sha256, name, size_bytes, stored_path, origin, sighting)
        VALUES (repeat('1', 64), 'b.zip', 1, '/gone', '/from', '')"""
    rows(installation, announced)
    async with await connect(installation.database, "receiving") as other, planning(other):
        assert await Arrivals(installation).look(client, ledger) is None
    assert await Arrivals(installation).look(client, ledger)


@pytest.fixture
def unprivileged() -> Iterator[Callable[[], None]]:
    """A function from whose call on the test runs as a user without capabilities."""
    yield lambda: os.seteuid(NOBODY)
    os.seteuid(0)


@needs_root
@pytest.mark.usefixtures("deployment")
async def test_a_file_of_another_user_is_watched_until_it_is_quiet(
    installation: Settings,
    client: PrefectClient,
    ledger: Session,
    inbox: Path,
    unprivileged: Callable[[], None],
) -> None:
    await PipelineConfig(quiet_seconds=3600).asave(PIPELINE, overwrite=True)
    (inbox / "a.zip").write_text("a")
    for folder in (inbox, *inbox.parents):
        folder.chmod(folder.stat().st_mode | 0o011)
    inbox.chmod(0o755)
    unprivileged()
    arrivals = Arrivals(installation)
    assert [await arrivals.look(client, ledger) for _ in range(2)] == [None, None]
    later = await ledger.execute("UPDATE seen_files SET seen_at = seen_at - interval '2 hours'")
    assert later.rowcount == 1
    assert await arrivals.look(client, ledger)


@pytest.mark.usefixtures("deployment")
async def test_a_file_that_a_run_receives_during_a_check_is_not_requested_again(
    installation: Settings,
    client: PrefectClient,
    ledger: Session,
    inbox: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (inbox / "a.zip").write_text("a")
    read = client.read_deployment_by_name

    async def taken_meanwhile(name: str) -> DeploymentResponse:
        (inbox / "a.zip").unlink(missing_ok=True)
        return await read(name)

    monkeypatch.setattr(client, "read_deployment_by_name", taken_meanwhile)
    assert await Arrivals(installation).look(client, ledger) is None


async def test_a_killed_planner_costs_no_file_and_an_idle_installation_makes_no_run(
    installation: Settings,
    client: PrefectClient,
    ledger: Session,
    deployment: UUID,
    inbox: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While a service checks the inbox, the schedule is inactive; without one, maintenance activates it."""
    monkeypatch.setenv("TDP_LOOK_SECONDS", "0.5")
    (schedule,) = (await client.read_deployment(deployment)).schedules
    await client.update_deployment_schedule(deployment, schedule.id, active=True)
    planners = """SELECT a.application_name AS run
        FROM advisory_locks JOIN pg_stat_activity a USING (pid)
        WHERE NOT granted AND starts_with(application_name, 'tdp run ')"""
    with services.worker(installation), services.recovery(installation):
        async with planning(ledger):
            write_samples(inbox, 3, 10, 7)
            (planner,) = await until(lambda: rows(installation, planners))
            for process in _processes_of(planner["run"].removeprefix("tdp run ")):
                os.kill(process, 9)
        done = "SELECT 1 FROM batch_files WHERE status = 'STORED'"
        await until(lambda: len(rows(installation, done)) == 3)
        assert rows(installation, "SELECT count(*) AS batches FROM batch_processing") == [{"batches": 1}]
        runs = [run for run in await client.read_flow_runs() if run.deployment_id == deployment]
        while not all(run.state and run.state.is_final() for run in runs):
            runs = [await client.read_flow_run(run.id) for run in runs]
        looked = "SELECT count(*) AS looks FROM pg_stat_activity WHERE application_name = 'tdp arrival'"
        assert rows(installation, looked) == [{"looks": 1}]
        assert not (await client.read_deployment(deployment)).schedules[0].active
    await maintain()
    assert (await client.read_deployment(deployment)).schedules[0].active
    assert sorted(str(run.state_name) for run in runs) == ["Completed", "Crashed"]


def _processes_of(run_id: str) -> list[int]:
    """Return the processes in whose environment the flow run's id is."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if run_id.encode() in environment:
            found.append(int(folder.name))
    return found
