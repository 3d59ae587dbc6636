"""The gate, with real processes, a real Prefect server and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
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
from flows.gate.gate import Held, gate
from flows.gate.lanes import Lanes
from flows.gate.predecessor import FAR, until_gone
from flows.ledger.owner import owner
from flows.settings import Settings
from flows.stages.runner import work_lock
from flows.stages.runner.host_identity import place

PROGRAMS = Path(__file__).parents[1] / "programs"
LOG = logging.getLogger("test")
LOCKS = "SELECT * FROM advisory_locks"


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


@asynccontextmanager
async def process(settings: Settings) -> AsyncIterator[Lanes]:
    """The lanes of a process of its own."""
    async with owner(settings.database, "test") as own:
        made = Lanes(own, settings.work_locks, is_yielding=False)
        try:
            yield made
        finally:
            await made.close()


@asynccontextmanager
async def enter(settings: Settings, stage: str, batch_id: str) -> AsyncIterator[Held]:
    """Hold the gate as a process of its own does."""
    async with process(settings) as lanes, enter_lane(lanes, stage, batch_id) as held:
        yield held


def enter_lane(lanes: Lanes, stage: str, batch_id: str) -> AbstractAsyncContextManager[Held]:
    return gate(stage, batch_id, lanes=lanes, log=LOG, environment={"PATH": os.environ["PATH"]})


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
    monkeypatch.setattr("flows.gate.slot._RENEW_EVERY", 0.1)
    with pytest.raises(GateLost, match="lease"):
        async with enter(installation, "extract", batches[0]) as held:
            (row,) = query(installation, "SELECT lease_id FROM stage_runs")
            await client.release_concurrency_slots_with_lease(row["lease_id"])
            await held.run(["sleep", "600"], timeout=60)
    assert [row["outcome"] for row in query(installation, "SELECT outcome FROM stage_runs")] == ["FAILED"]


@pytest.mark.parametrize("whose", ["tdp extract {}", "test"])
async def test_a_lost_session_ends_the_work(whose: str, installation: Settings, batches: list[str]) -> None:
    """Of the fence, or of the process's owner."""
    with pytest.raises(GateLost, match="session"):
        async with enter(installation, "extract", batches[0]) as held:
            terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
            query(installation, terminate, whose.format(batches[0]))
            await held.run(["sleep", "600"], timeout=60)
    assert [row["outcome"] for row in query(installation, "SELECT outcome FROM stage_runs")] == ["FAILED"]


async def test_a_run_that_lost_its_session_has_ended_before_the_next_begins(
    installation: Settings, batches: list[str], client: PrefectClient, tmp_path: Path
) -> None:
    """Restarted, PostgreSQL releases the fence at once; the run detects the loss up to a second later."""

    async def run(batch_id: str) -> None:
        async with enter(installation, "extract", batch_id) as held:
            await held.run(exclusive(tmp_path, batch_id, 3), timeout=60)

    holder = asyncio.create_task(run(batches[0]))
    await until((tmp_path / "mark").exists)
    waiting = asyncio.create_task(run(batches[1]))
    await until(lambda: query(installation, "SELECT 1 FROM pg_locks WHERE NOT granted"))
    terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
    query(installation, terminate, f"tdp extract {batches[0]}")
    with pytest.raises(GateLost, match="session"):
        await holder
    await waiting  # the program itself ends with an error if another copy of it runs
    assert await active(client, "extract") == 0
    outcomes = query(installation, "SELECT outcome FROM stage_runs ORDER BY stage_run_id")
    assert [row["outcome"] for row in outcomes] == ["FAILED", "COMPLETED"]
    assert query(installation, "SELECT * FROM stage_overlaps") == []


async def test_a_run_whose_batch_was_taken_over_while_it_waited_changes_nothing(
    installation: Settings, batches: list[str], client: PrefectClient
) -> None:
    """As after a freeze: its sessions were lost meanwhile, and another run went on with its batch."""
    async with AsyncExitStack() as first:
        await first.enter_async_context(enter(installation, "extract", batches[0]))
        waiting = asyncio.create_task(_pass(installation, batches[1]))
        await until(lambda: query(installation, "SELECT 1 FROM pg_locks WHERE NOT granted"))
        async with enter(installation, "convert", batches[1]):  # closes what its batch has left waiting
            await first.aclose()
            with pytest.raises(GateLost, match="another run closed this one as LOST"):
                await waiting
    of_it = (
        "SELECT outcome, fenced_at IS NULL AS waited FROM stage_runs WHERE batch_id = %s ORDER BY queued_at"
    )
    assert query(installation, of_it, batches[1]) == [
        {"outcome": "LOST", "waited": True},
        {"outcome": "COMPLETED", "waited": False},
    ]
    await _pass(installation, batches[2])
    assert await active(client, "extract") == 0


async def test_a_work_lock_that_its_flow_removes_meanwhile_ends_the_wait(tmp_path: Path) -> None:
    """Its flow lives, but has lost its session: it removes the lock after the end of its work."""
    lock = tmp_path / "locks" / "1.lock"
    held = work_lock.acquire(lock)
    os.write(held, b"begun\n")
    run = {"place": place(), "work_lock": str(lock), "stage": "extract", "batch_id": "batch_000001"}
    since = asyncio.get_running_loop().time() - FAR
    waiting = asyncio.create_task(until_gone(run, since, logging.getLogger("test")))
    for _ in range(3):  # looks
        await asyncio.to_thread(work_lock.is_free, lock)
        assert not waiting.done()
    lock.unlink()
    await asyncio.wait_for(waiting, 10)
    os.close(held)


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


async def test_runs_of_a_process_have_one_lease_after_the_other_and_release_it_with_the_last(
    installation: Settings, batches: list[str], client: PrefectClient
) -> None:
    async with process(installation) as lanes:

        async def one(batch_id: str, stage: str) -> None:
            async with enter_lane(lanes, stage, batch_id):
                assert 1 <= await active(client, stage) <= 5

        await asyncio.gather(*(one(batch_id, "extract") for batch_id in batches[:4]))
        assert await active(client, "extract") == 0
        await asyncio.gather(*(one(batch_id, "store") for batch_id in batches[:12]))
        assert await active(client, "store") == 0
        assert query(installation, LOCKS) == []
    leases = query(
        installation, "SELECT count(DISTINCT lease_id) AS n FROM stage_runs WHERE stage = 'extract'"
    )
    assert leases == [{"n": 1}]


async def test_processes_take_turns(installation: Settings, batches: list[str]) -> None:
    async with process(installation) as one, process(installation) as other:

        async def run(lanes: Lanes, batch_id: str) -> None:
            async with enter_lane(lanes, "extract", batch_id):
                await asyncio.sleep(0.05)  # so that all others wait before the first has ended

        firsts = [run(one, batch_id) for batch_id in batches[:4]]
        seconds = [run(other, batch_id) for batch_id in batches[4:8]]
        await asyncio.gather(*firsts, *seconds)
    rows = query(installation, "SELECT batch_id FROM stage_runs ORDER BY started_at")
    turns = [row["batch_id"] in batches[:4] for row in rows]
    assert turns in ([True, False] * 4, [False, True] * 4)


async def test_a_process_has_as_many_sessions_as_runs_at_work_and_one(
    installation: Settings, batches: list[str]
) -> None:
    sessions = (
        "SELECT count(*) AS n FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name ~ '^(tdp|test)'"
    )
    all_at_work, most = asyncio.Event(), 0

    async with process(installation) as lanes:

        async def one(batch_id: str, stage: str) -> None:
            nonlocal most
            async with enter_lane(lanes, stage, batch_id):
                at_work = query(installation, "SELECT 1 FROM stage_runs WHERE started_at IS NOT NULL")
                if len(at_work) == 7:
                    most = query(installation, sessions)[0]["n"]
                    all_at_work.set()
                await all_at_work.wait()

        stages = ["extract"] * 10 + ["convert"] * 10 + ["store"] * 20
        async with asyncio.timeout(60):
            await asyncio.gather(*(one(*pair) for pair in zip(batches, stages, strict=True)))
    assert most <= 8 + 1  # seven at work, the owner, and the first waiter for a store


async def test_a_run_that_is_cancelled_on_its_way_costs_no_connection_and_no_lease(
    installation: Settings, batches: list[str], client: PrefectClient
) -> None:
    async with AsyncClientContext.get_or_create() as context:  # as the runs of a flow share one client
        async with process(installation) as lanes:
            for milliseconds, batch_id in enumerate(batches):  # so that every moment of a request is met

                async def enter_and_leave(batch_id: str = batch_id) -> None:
                    async with enter_lane(lanes, "extract", batch_id):
                        pass

                entering = asyncio.create_task(enter_and_leave())
                await asyncio.wait([entering], timeout=milliseconds / 500)
                entering.cancel()
                await asyncio.gather(entering, return_exceptions=True)
        pool = context.client._client._transport._pool  # type: ignore[attr-defined]
        await until(lambda: all(connection.is_idle() for connection in pool.connections))
    assert await active(client, "extract") == 0
    # A row that had only just been queued is closed by the next run of its batch.
    held = "SELECT 1 FROM stage_runs WHERE finished_at IS NULL AND fenced_at IS NOT NULL"
    assert query(installation, held) == []


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
) -> None:
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
