"""Behaviour of Prefect that we depend on and that is not documented: see deployments/UPGRADING_PREFECT.md.

Each test meets Prefect alone, without a stage, so that a failure after an upgrade names what has changed.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import httpx
import psutil
import pytest
from prefect import flow, task
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.context import TaskRunContext
from prefect.utilities.engine import emit_task_run_state_change_event

from deployments.apply import apply
from flows import services
from flows.services.prefect import server_settings
from flows.settings import Settings


@pytest.fixture
async def client(installation: Settings) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


async def until(look: Callable[[], Any], seconds: float = 60) -> Any:
    """Return what ``look`` finds at last; the server works in the background and reports nothing."""
    async with asyncio.timeout(seconds):
        while not (found := await look()):
            await asyncio.sleep(0.1)
        return found


def flat(table: dict[str, Any], prefix: str) -> dict[str, str]:
    """Return nested settings as the variables that set them."""
    variables: dict[str, str] = {}
    for key, value in table.items():
        name = f"{prefix}_{key.upper()}"
        if isinstance(value, dict):
            variables |= flat(value, name)
        else:
            variables[name] = (
                ",".join(sorted(map(str, value))) if isinstance(value, list) else str(value).lower()
            )
    return variables


def test_every_setting_of_ours_reaches_the_server(prefect_server: Settings) -> None:
    url = f"{services.server_url(prefect_server)}/api/admin/settings"
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - http to a loopback port
        effective = flat(json.load(answer), "PREFECT")
    wanted = server_settings({})
    assert {name: float_or_text(effective.get(name)) for name in wanted} == {
        name: float_or_text(value) for name, value in wanted.items()
    }


def float_or_text(value: str | None) -> float | str | None:
    try:
        return float(value or "")
    except ValueError:
        return value


@pytest.mark.parametrize("timezone", ["UTC", "Europe/Berlin"])
async def test_a_cron_schedule_becomes_scheduled_runs(client: PrefectClient, timezone: str) -> None:
    """With a release of whenever or SQLAlchemy that it does not fit, the scheduler makes none and goes on."""
    schedule = DeploymentScheduleCreate(schedule=CronSchedule(cron="*/5 * * * *", timezone=timezone))
    flow_id = await client.create_flow_from_name(f"scheduled-{uuid4()}")
    deployment_id = await client.create_deployment(flow_id, "cron", schedules=[schedule])
    ours = DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id]))
    try:
        runs = await until(lambda: client.read_flow_runs(deployment_filter=ours), 120)
    finally:
        await client.delete_deployment(deployment_id)
    assert {run.state_name for run in runs} == {"Scheduled"}


@task
async def waits() -> UUID:
    context = TaskRunContext.get()
    assert context
    for kind, name in ((StateType.PENDING, "Waiting for extract"), (StateType.RUNNING, "Running")):
        state: State[None] = State(type=kind, name=name, message="Held by batch_000001")
        emit_task_run_state_change_event(
            context.task_run, initial_state=context.task_run.state, validated_state=state
        )
    return context.task_run.id


@flow
async def one_that_waits() -> UUID:
    return await waits()


async def test_states_between_those_of_the_engine_are_kept_in_order(client: PrefectClient) -> None:
    run_id = await one_that_waits()

    async def states() -> list[tuple[str, str]]:
        answer = await client.request("GET", "/task_run_states/", params={"task_run_id": str(run_id)})
        found = sorted(answer.json(), key=lambda state: state["timestamp"])
        return [(state["type"], state["name"]) for state in found if found[-1]["name"] == "Completed"]

    assert await until(states) == [
        ("PENDING", "Pending"),
        ("RUNNING", "Running"),
        ("PENDING", "Waiting for extract"),
        ("RUNNING", "Running"),
        ("COMPLETED", "Completed"),
    ]


async def test_leases_are_granted_refused_renewed_and_lost_with_the_answers_that_we_know(
    client: PrefectClient,
) -> None:
    async def granted(name: str, seconds: float = 60) -> dict[str, Any]:
        answer = await client.increment_concurrency_slots_with_lease(
            names=[name], slots=1, mode="concurrency", lease_duration=seconds
        )
        found: dict[str, Any] = answer.json()
        return found

    assert (await granted(f"missing-{uuid4()}"))["limits"] == []  # no error: the caller has to see it
    assert await status(granted("extract", 59)) == 422  # the shortest lease is 60 s
    lease = await granted("extract")
    assert [(limit["name"], limit["limit"]) for limit in lease["limits"]] == [("extract", 1)]
    assert await status(granted("extract")) == 423
    lease_id = UUID(lease["lease_id"])
    assert await status(client.renew_concurrency_lease(lease_id=lease_id, lease_duration=60)) == 204
    assert (await client.read_global_concurrency_limit_by_name("extract")).active_slots == 1
    assert await status(client.release_concurrency_slots_with_lease(lease_id=lease_id)) == 204
    assert (await client.read_global_concurrency_limit_by_name("extract")).active_slots == 0
    assert await status(client.renew_concurrency_lease(lease_id=lease_id, lease_duration=60)) == 410


async def status(request: Any) -> int:
    try:
        answer = await request
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    return answer.status_code if isinstance(answer, httpx.Response) else 200


LOGS_TO_NOBODY = """
import logging, os, sys
from rich.console import Console
from prefect.logging.handlers import PrefectConsoleHandler
Console.on_broken_pipe = lambda _: os._exit(7)
log = logging.getLogger("test")
log.addHandler(PrefectConsoleHandler(stream=sys.stderr))
sys.stdin.read()
log.warning("that nothing reads")
"""


def test_a_log_line_to_a_broken_pipe_meets_our_handler() -> None:
    """As in a flow whose worker was killed. Rich itself would raise SystemExit, wherever the flow is."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", LOGS_TO_NOBODY], stdin=pipe, stderr=pipe) as process:
        assert process.stdin
        assert process.stderr
        process.stderr.close()
        process.stdin.close()
        assert process.wait(60) == 7


async def test_a_worker_runs_each_flow_run_as_a_child_whose_command_names_the_engine(
    installation: Settings, client: PrefectClient
) -> None:
    """By the command the monitor counts memory; as children of the worker `tdp up` ends flow runs first."""
    await apply(installation)
    for deployment in await client.read_deployments():
        for schedule in deployment.schedules:
            await client.update_deployment_schedule(deployment.id, schedule.id, active=False)
    adhoc = await client.read_deployment_by_name("process-batch/adhoc")
    run = await client.create_flow_run_from_deployment(adhoc.id, parameters={"batch_id": "batch_999999"})

    async def ended() -> str | None:
        found = await client.read_flow_run(run.id)
        return found.state_name if found.state and found.state.is_final() else None

    try:
        with services.worker(installation) as worker:
            await asyncio.to_thread(wait_for_engine, worker.process)
            assert await until(ended) == "Failed"  # there is no such batch
    finally:
        for deployment in await client.read_deployments():
            await client.delete_deployment(deployment.id)


def wait_for_engine(worker: psutil.Process) -> None:
    """Return once a child of the worker has become the engine; before, it fetches the flow's code."""
    deadline = time.monotonic() + 60
    seen: set[str] = set()
    while not seen & {"-m prefect.engine", "-m prefect.flow_engine"}:
        assert time.monotonic() < deadline, f"no child of the worker was the engine: {seen}"
        for child in worker.children():
            with suppress(psutil.NoSuchProcess):
                seen.add(" ".join(child.cmdline()[1:3]))
        time.sleep(0.02)
