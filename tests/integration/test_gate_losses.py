"""The gate when a process, session, lease or slot is lost: old work has ended before the next begins."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
from gates import PROGRAMS, active, contender, enter, enter_lane, exclusive, pass_gate, process, until
from ledger_rows import query
from prefect.client.orchestration import PrefectClient

from flows.errors import GateLost
from flows.gate.predecessor import FAR, until_gone
from flows.ledger.locks import QUEUE
from flows.ledger.session import Session, fetch
from flows.settings import Settings
from flows.stages.runner import work_lock
from flows.stages.runner.host_identity import place


async def test_after_a_killed_flow_the_next_run_starts_when_its_child_has_ended(
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

    second = asyncio.create_task(pass_gate(installation, batches[1]))
    waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    await until(lambda: query(installation, waits))
    done, _ = await asyncio.wait([second], timeout=1)
    assert not done, "the second extract went in beside the orphan"
    supervisor.send_signal(signal.SIGCONT)
    await asyncio.wait_for(second, 30)
    assert has_ended(work)


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


async def test_a_run_whose_batch_was_claimed_by_another_while_it_waited_changes_nothing(
    installation: Settings, batches: list[str], client: PrefectClient
) -> None:
    """As after a freeze: its sessions were lost meanwhile, and another run went on with its batch."""
    async with AsyncExitStack() as first:
        await first.enter_async_context(enter(installation, "extract", batches[0]))
        waiting = asyncio.create_task(pass_gate(installation, batches[1]))
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
    await pass_gate(installation, batches[2])
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


@pytest.mark.parametrize("stage", ["extract", "store"])
async def test_a_kept_place_whose_session_was_lost_costs_no_attempt(
    stage: str,
    installation: Settings,
    batches: list[str],
    client: PrefectClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flows.gate.lane._KEPT_FOR", 60.0)
    async with process(installation) as lanes:
        async with enter_lane(lanes, stage, batches[0]):
            pass
        terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
        query(installation, terminate, f"tdp {stage} {batches[0]}")
        async with enter_lane(lanes, stage, batches[1]):
            assert await active(client, stage) == 1
    outcomes = query(installation, "SELECT outcome FROM stage_runs ORDER BY stage_run_id")
    assert [row["outcome"] for row in outcomes] == ["COMPLETED", "COMPLETED"]
    assert await active(client, stage) == 0


async def test_a_kept_place_is_released_although_its_task_is_cancelled(
    installation: Settings, batches: list[str], client: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As asyncio.run cancels all tasks at SIGTERM, before the lanes are closed."""
    monkeypatch.setattr("flows.gate.lane._KEPT_FOR", 60.0)
    async with process(installation) as lanes:
        before = asyncio.all_tasks()
        async with enter_lane(lanes, "store", batches[0]):
            pass
        await asyncio.sleep(0)  # they begin
        for task in asyncio.all_tasks() - before:
            task.cancel()
    assert await active(client, "store") == 0


async def test_a_run_that_is_cancelled_when_it_has_found_a_kept_place_releases_it(
    installation: Settings, batches: list[str], client: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.gate.lane._KEPT_FOR", 60.0)
    all_enter, at_work = asyncio.Event(), 0

    async def cancelling(session: Session, statement: str, /, **values: object) -> Any:
        if values.get("space") == QUEUE and statement == "release_lock" and all_enter.is_set():
            sixth.cancel()
        return await fetch(session, statement, **values)

    monkeypatch.setattr("flows.gate.lane.fetch", cancelling)
    async with process(installation) as lanes:

        async def one(batch_id: str) -> None:
            nonlocal at_work
            async with enter_lane(lanes, "store", batch_id):
                at_work += 1
                await all_enter.wait()

        five = [asyncio.create_task(one(batch_id)) for batch_id in batches[:5]]
        await until(lambda: at_work == 5)
        sixth = asyncio.create_task(one(batches[5]))
        await until(lambda: query(installation, "SELECT 1 FROM advisory_locks WHERE space = %s", QUEUE))
        all_enter.set()
        with pytest.raises(asyncio.CancelledError):
            await sixth
        await asyncio.gather(*five)
        assert await active(client, "store") == 4
    assert await active(client, "store") == 0


async def test_a_lease_is_released_once_although_the_next_run_is_cancelled_meanwhile(
    installation: Settings, batches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may subtract the slot for each of two requests at the same time."""
    monkeypatch.setattr("flows.gate.lane._KEPT_FOR", 60.0)
    monkeypatch.setattr("flows.gate.lane.KEEP_WITHIN", 0.0)
    requests = []
    async with process(installation) as lanes:
        really = lanes.client.release_concurrency_slots_with_lease

        async def release(lease_id: UUID) -> None:
            requests.append(lease_id)
            second.cancel()
            await asyncio.sleep(0)
            await really(lease_id)

        async with enter_lane(lanes, "extract", batches[0]):
            pass
        monkeypatch.setattr(lanes.client, "release_concurrency_slots_with_lease", release)
        second = asyncio.create_task(enter_lane(lanes, "extract", batches[1]).__aenter__())
        with pytest.raises(asyncio.CancelledError):
            await second
    assert len(requests) == 1


@pytest.mark.parametrize("cause", ["lost response", "killed process"])
async def test_a_leaked_slot_is_reclaimed(
    cause: str, installation: Settings, batches: list[str], client: PrefectClient
) -> None:
    await pass_gate(installation, batches[1])
    granted = await client.increment_concurrency_slots_with_lease(["extract"], 1, "concurrency", 60)
    lease = granted.json()["lease_id"]
    if cause == "killed process":  # between two runs
        query(installation, "UPDATE stage_runs SET lease_id = %s RETURNING 1", lease)
    began = time.monotonic()
    await asyncio.wait_for(pass_gate(installation, batches[0]), 60)
    assert time.monotonic() - began < 40  # its lease would expire after 60 s
    assert await active(client, "extract") == 0
    if cause == "killed process":  # at the end of its lease, the server would subtract the slot again
        with pytest.raises(httpx.HTTPStatusError, match="410"):
            await client.renew_concurrency_lease(UUID(lease), 60)


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
