"""The gate, with real processes, a real Prefect server and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.context import AsyncClientContext
from psycopg.rows import dict_row

from flows.errors import GateLost, LimitMissing
from flows.gate import gate
from flows.lease_keeper import leases_kept
from flows.ledger.session import connect, fetch
from flows.settings import Settings

PROGRAMS = Path(__file__).parents[1] / "programs"
LOG = logging.getLogger("test")


def query(settings: Settings, statement: str, *values: object) -> list[dict[str, Any]]:
    with psycopg.connect(settings.database, row_factory=dict_row, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def batches(installation: Settings) -> list[str]:
    created = (
        "INSERT INTO batch_processing (file_count) SELECT 0 FROM generate_series(1, 40) RETURNING batch_id"
    )
    return [row["batch_id"] for row in query(installation, created)]


@pytest.fixture
async def client(installation: Settings) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


def enter(settings: Settings, stage: str, batch_id: str) -> Any:
    return gate(stage, batch_id, database_url=settings.database, log=LOG)


async def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)
    return value


def contender(how: str, batches: list[str], command: list[str]) -> subprocess.Popen[str]:
    argv = [sys.executable, str(PROGRAMS / "contender.py"), how, "extract", *batches, "--", *command]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def exclusive(tmp_path: Path, name: str, seconds: float) -> list[str]:
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    argv = [str(PROGRAMS / "exclusive.py"), str(tmp_path / "mark"), str(seconds), str(source)]
    return [sys.executable, *argv, str(tmp_path / name)]


async def active(client: PrefectClient, stage: str) -> int:
    return (await client.read_global_concurrency_limit_by_name(stage)).active_slots


@pytest.mark.parametrize(("how", "crashes"), [("gated", False), ("free", True)])
def test_exclusive_program_under_six_processes(
    how: str, crashes: bool, installation: Settings, batches: list[str], tmp_path: Path
) -> None:
    contenders = [
        contender(how, batches[5 * n : 5 * n + 5], exclusive(tmp_path, f"out{n}", 0.05)) for n in range(6)
    ]
    errors = [process.communicate(timeout=120)[1] for process in contenders]
    crashed = [error for error in errors if "another copy of this program is running" in error]
    assert bool(crashed) is crashes, errors
    if not crashes:
        assert [process.returncode for process in contenders] == [0] * 6, errors
        assert query(installation, "SELECT outcome, count(*) FROM stage_runs GROUP BY outcome") == [
            {"outcome": "COMPLETED", "count": 30}
        ]
        assert query(installation, "SELECT * FROM stage_overlaps") == []


async def test_killed_flow_lets_the_next_in_when_its_child_is_gone(
    installation: Settings, batches: list[str], client: PrefectClient, tmp_path: Path
) -> None:
    first = contender("gated", batches[:1], exclusive(tmp_path, "first", 600))
    assert first.stdout is not None
    assert first.stdout.readline().startswith("fenced")
    work = await until(lambda: [p for p in psutil.Process(first.pid).children(recursive=True) if is_work(p)])

    killed = time.monotonic()
    first.send_signal(signal.SIGKILL)
    async with enter(installation, "extract", batches[1]):
        handover = time.monotonic() - killed
        assert has_ended(work[0])
        assert await active(client, "extract") == 1
    first.communicate()

    assert handover < 30  # a lease would expire after 60 s
    assert await active(client, "extract") == 0
    assert query(installation, "SELECT batch_id, outcome FROM stage_runs ORDER BY stage_run_id") == [
        {"batch_id": batches[0], "outcome": "LOST"},
        {"batch_id": batches[1], "outcome": "COMPLETED"},
    ]
    assert query(installation, "SELECT * FROM stage_overlaps") == []


async def test_orphan_that_escaped_its_supervisor_keeps_the_fence_closed(
    installation: Settings, batches: list[str], tmp_path: Path
) -> None:
    first = contender("gated", batches[:1], exclusive(tmp_path, "first", 600))
    assert first.stdout is not None
    first.stdout.readline()
    (work,) = await until(
        lambda: [p for p in psutil.Process(first.pid).children(recursive=True) if is_work(p)]
    )
    supervisor = work.parent()
    assert supervisor is not None
    supervisor.send_signal(signal.SIGSTOP)  # it cannot kill the work now
    first.send_signal(signal.SIGKILL)
    first.communicate()

    second = asyncio.create_task(_pass(installation, batches[1]))
    waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    await until(lambda: query(installation, waits))
    done, _ = await asyncio.wait([second], timeout=1)
    assert not done, "the second extract went in beside the orphan"
    supervisor.send_signal(signal.SIGCONT)
    await asyncio.wait_for(second, 30)
    assert has_ended(work)


async def test_a_missing_limit_is_an_error_that_names_the_command(
    installation: Settings, batches: list[str], client: PrefectClient
) -> None:
    await client.delete_global_concurrency_limit_by_name("convert")
    try:
        with pytest.raises(LimitMissing, match="tdp apply"):
            await _pass(installation, batches[0], "convert")
    finally:
        await client.upsert_global_concurrency_limit_by_name("convert", 1)
    (row,) = query(installation, "SELECT outcome, error FROM stage_runs")
    assert row["outcome"] == "FAILED"
    assert "LimitMissing" in row["error"]


async def test_a_revoked_lease_ends_the_work(
    installation: Settings, batches: list[str], client: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.slot._RENEW_EVERY", 0.1)
    with pytest.raises(GateLost, match="lease"):
        async with enter(installation, "extract", batches[0]):
            (row,) = query(installation, "SELECT lease_id FROM stage_runs")
            await client.release_concurrency_slots_with_lease(row["lease_id"])
            await asyncio.sleep(60)
    assert [row["outcome"] for row in query(installation, "SELECT outcome FROM stage_runs")] == ["FAILED"]


async def test_a_lost_session_ends_the_work(installation: Settings, batches: list[str]) -> None:
    with pytest.raises(GateLost, match="session"):
        async with enter(installation, "extract", batches[0]):
            terminate = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE %s"
            )
            query(installation, terminate, "tdp extract%")
            await asyncio.sleep(60)
    assert [row["outcome"] for row in query(installation, "SELECT outcome FROM stage_runs")] == ["FAILED"]


async def test_a_run_that_lost_its_session_has_ended_before_the_next_begins(
    installation: Settings, batches: list[str], client: PrefectClient
) -> None:
    """Restarted, PostgreSQL opens the fence at once; the run learns of it up to a second later."""
    at: dict[str, float] = {}

    async def first() -> None:
        async with enter(installation, "extract", batches[0]):
            at["begin"] = time.monotonic()
            try:
                await asyncio.sleep(60)
            finally:
                at["end"] = time.monotonic()

    async def second() -> None:
        async with enter(installation, "extract", batches[1]):
            at["next"] = time.monotonic()

    holder = asyncio.create_task(first())
    await until(lambda: at)
    waiting = asyncio.create_task(second())
    await until(lambda: query(installation, "SELECT 1 FROM pg_locks WHERE NOT granted"))
    terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
    query(installation, terminate, f"tdp extract {batches[0]}")
    with pytest.raises(GateLost, match="session"):
        await holder
    await waiting
    assert at["end"] < at["next"]
    assert await active(client, "extract") == 0
    outcomes = query(installation, "SELECT outcome FROM stage_runs ORDER BY stage_run_id")
    assert [row["outcome"] for row in outcomes] == ["FAILED", "COMPLETED"]


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelling_a_waiting_run_leaves_no_lock(
    times: int, installation: Settings, batches: list[str], client: PrefectClient
) -> None:
    async with enter(installation, "extract", batches[0]):
        waiting = asyncio.create_task(_pass(installation, batches[1]))
        await until(lambda: query(installation, "SELECT 1 FROM pg_locks WHERE NOT granted"))
        for _ in range(times):
            waiting.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await asyncio.wait_for(_pass(installation, batches[2]), 10)
    assert await active(client, "extract") == 0
    outcomes = query(installation, "SELECT outcome FROM stage_runs ORDER BY stage_run_id")
    assert [row["outcome"] for row in outcomes] == ["COMPLETED", "CANCELLED", "COMPLETED"]


async def test_a_slot_leaked_by_a_lost_answer_is_taken_back(
    installation: Settings, batches: list[str], client: PrefectClient
) -> None:
    await client.increment_concurrency_slots_with_lease(["extract"], 1, "concurrency", 60)
    began = time.monotonic()
    await asyncio.wait_for(_pass(installation, batches[0]), 60)
    assert time.monotonic() - began < 40  # its lease would expire after 60 s
    assert await active(client, "extract") == 0


async def test_a_lease_is_left_for_the_next_run_and_given_back_with_the_flow(
    installation: Settings, batches: list[str], client: PrefectClient
) -> None:
    left = "SELECT stage FROM parked_leases"
    async with leases_kept(installation.database, LOG):
        for batch_id in batches[:3]:
            await _pass(installation, batch_id)
            assert query(installation, left) == [{"stage": "extract"}]
            assert await active(client, "extract") == 1
        await asyncio.gather(*(_pass(installation, batch_id, "store") for batch_id in batches[:3]))
    leases = query(
        installation, "SELECT count(DISTINCT lease_id) AS n FROM stage_runs WHERE stage = 'extract'"
    )
    assert leases == [{"n": 1}]
    assert query(installation, left) == []
    assert (await active(client, "extract"), await active(client, "store")) == (0, 0)


@pytest.mark.parametrize("change", [{}, {"limit": 2}, {"active": False}, {"active_slots": 0}])
async def test_a_long_run_hands_its_lease_on_if_the_limit_is_as_it_was(
    change: dict[str, Any],
    installation: Settings,
    batches: list[str],
    client: PrefectClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flows.gate.HAND_ON_WITHIN", 1.0)
    monkeypatch.setattr("flows.gate._CONFIRMED_AFTER", 0.2)
    async with leases_kept(installation.database, LOG):
        async with enter(installation, "extract", batches[0]):
            await client.update_global_concurrency_limit("extract", GlobalConcurrencyLimitUpdate(**change))
            await asyncio.sleep(1.5)  # the time itself is what is tested
        await client.update_global_concurrency_limit(
            "extract", GlobalConcurrencyLimitUpdate(limit=1, active=True)
        )
        await _pass(installation, batches[1])
    leases = query(installation, "SELECT count(DISTINCT lease_id) AS n FROM stage_runs")
    assert leases == [{"n": 2 if change else 1}]
    assert await active(client, "extract") == 0


async def test_a_run_that_ends_while_its_lease_is_confirmed_costs_no_connection(
    installation: Settings, batches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.gate._CONFIRMED_AFTER", 0.0)
    async with AsyncClientContext.get_or_create() as context:  # as the runs of a flow share one client
        async with leases_kept(installation.database, LOG):
            for milliseconds, batch_id in enumerate(batches):  # so that every moment of a request is met
                async with enter(installation, "extract", batch_id):
                    await asyncio.sleep(milliseconds / 1000)
        pool = context.client._client._transport._pool  # type: ignore[attr-defined]
        await until(lambda: all(connection.is_idle() for connection in pool.connections))


async def test_of_the_leases_left_a_run_takes_one_however_the_planner_reads_them(
    installation: Settings, batches: list[str]
) -> None:
    """The youngest come first in the table, so for a loop over its rows each is the youngest in turn."""
    left = (
        "INSERT INTO parked_leases SELECT 'store', n, gen_random_uuid(), now() - n * interval '1 s'"
        " FROM generate_series(0, 4) AS n"
    )
    values = {"space": 1, "key": 1, "flow_run_id": None, "within": 60.0, "stage": "store", "slot": 0}
    async with await connect(installation.database, "test") as session:
        await session.execute(left)
        for choice in ("hashagg", "sort", "material", "hashjoin", "mergejoin"):
            await session.execute(f"SET enable_{choice} = off")
        for remaining in (4, 3, 2, 1, 0):
            assert len(await fetch(session, "enter_gate", stage_run_id=0, **values)) == 1
            assert query(installation, "SELECT count(*) AS n FROM parked_leases") == [{"n": remaining}]


async def test_a_lease_that_nobody_comes_for_is_given_back(
    installation: Settings, batches: list[str], client: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.lease_keeper.HAND_ON_WITHIN", 0.1)
    monkeypatch.setattr("flows.lease_keeper._LOOK_EVERY", 0.05)
    async with leases_kept(installation.database, LOG):
        await _pass(installation, batches[0])
        await until(lambda: query(installation, "SELECT 1 FROM parked_leases") == [])
        async with asyncio.timeout(40):
            while await active(client, "extract"):
                await asyncio.sleep(0.01)


async def test_stores_run_five_at_a_time(installation: Settings, batches: list[str]) -> None:
    inside, most, everyone = 0, 0, asyncio.Event()

    async def one(batch_id: str) -> None:
        nonlocal inside, most
        async with enter(installation, "store", batch_id):
            inside += 1
            most = max(most, inside)
            if inside == 5:
                everyone.set()
            await asyncio.wait_for(everyone.wait(), 30)
            await asyncio.sleep(0.1)  # time enough for a sixth, were the gate open
            inside -= 1

    await asyncio.gather(*(one(batch_id) for batch_id in batches[:12]))
    assert most == 5
    slots = query(installation, "SELECT count(DISTINCT slot) AS n FROM stage_runs")
    assert slots == [{"n": 5}]


@pytest.mark.parametrize(("stage", "limit"), [("extract", 1), ("store", 5)])
async def test_a_paused_limit_holds_everybody_until_it_is_back(
    stage: str,
    limit: int,
    installation: Settings,
    batches: list[str],
    client: PrefectClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flows.gate._limits", {})
    await client.update_global_concurrency_limit(stage, GlobalConcurrencyLimitUpdate(limit=0))
    waiting = asyncio.create_task(_pass(installation, batches[0], stage))
    await until(lambda: query(installation, "SELECT 1 FROM stage_runs WHERE fenced_at IS NOT NULL"))
    done, _ = await asyncio.wait([waiting], timeout=1)
    assert not done
    await client.update_global_concurrency_limit(stage, GlobalConcurrencyLimitUpdate(limit=limit))
    await asyncio.wait_for(waiting, 10)


async def _pass(settings: Settings, batch_id: str, stage: str = "extract") -> None:
    async with enter(settings, stage, batch_id):
        pass


def is_work(process: psutil.Process) -> bool:
    try:  # only as its script: a child that was just forked still bears the contender's command line
        return process.cmdline()[1:2] == [str(PROGRAMS / "exclusive.py")]
    except psutil.NoSuchProcess:
        return False


def has_ended(process: psutil.Process) -> bool:
    """Tell whether the process is gone, or waits to be reaped: its descriptors are closed either way."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
