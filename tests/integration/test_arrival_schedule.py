"""The schedule of the inbox deployment: active only while no process checks the inbox."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import psycopg
import pytest
from prefect.client.orchestration import get_client

from deployments.apply import apply
from flows.domain import INBOX_DEPLOYMENT, LOOKING
from flows.ledger.session import connect
from flows.monitor.schedule_watch import ScheduleWatch
from flows.operations.arrival import watch as watch_arrivals
from flows.settings import Settings


@pytest.fixture(autouse=True)
async def deployments(installation: Settings) -> AsyncIterator[None]:
    """The deployments of the project; removed afterwards."""
    await apply(installation)
    yield
    async with get_client() as client:
        for deployment in await client.read_deployments():
            await client.delete_deployment(deployment.id)


async def until_sessions(settings: Settings, application: str, number: int) -> None:
    """Wait until so many sessions have this name."""
    statement = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    deadline = time.monotonic() + 60
    async with await psycopg.AsyncConnection.connect(settings.database, autocommit=True) as ledger:
        while await (await ledger.execute(statement, [application])).fetchone() != (number,):
            assert time.monotonic() < deadline, f"not {number} sessions of {application}"
            await asyncio.sleep(0.05)


async def test_the_monitor_activates_the_schedule_when_no_process_checks_the_inbox(
    installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.monitor.schedule_watch._INTERVAL", 0)
    watch = ScheduleWatch(installation.model_copy(update={"look_seconds": 2}))

    async def is_active_after_a_check() -> bool:
        await asyncio.to_thread(watch.check)
        async with get_client() as client:
            return bool((await client.read_deployment_by_name(INBOX_DEPLOYMENT)).schedules[0].active)

    async with await connect(installation.database, LOOKING) as looking:
        await looking.execute("SELECT 1")
        assert [await is_active_after_a_check() for _ in range(3)] == [False] * 3
    await until_sessions(installation, LOOKING, 0)
    # Not at once: a process that checks the inbox may be starting.
    assert [await is_active_after_a_check() for _ in range(2)] == [False, True]


async def test_a_process_counts_as_checking_while_there_is_an_inbox(
    installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be mounted after the start, or be unmounted while other hosts still have it."""
    watching = asyncio.create_task(watch_arrivals(installation.model_copy(update={"look_seconds": 0.1})))
    try:
        await until_sessions(installation, "tdp uploads", 1)
        installation.inbox.mkdir(parents=True)
        await until_sessions(installation, LOOKING, 1)
        installation.inbox.rmdir()
        await until_sessions(installation, "tdp uploads", 1)
        await until_sessions(installation, LOOKING, 0)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
