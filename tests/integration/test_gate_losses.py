"""The gate when a process, session, lease or slot is lost: old work has ended before the next begins."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest
from gates import PROGRAMS, active, contender, enter, exclusive, pass_gate, until
from ledger_rows import query
from prefect.client.orchestration import PrefectClient

from flows.errors import GateLost
from flows.gate.predecessor import FAR, until_gone
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


async def test_a_slot_leaked_by_a_lost_response_is_reclaimed(
    installation: Settings, batches: list[str], client: PrefectClient
) -> None:
    await client.increment_concurrency_slots_with_lease(["extract"], 1, "concurrency", 60)
    began = time.monotonic()
    await asyncio.wait_for(pass_gate(installation, batches[0]), 60)
    assert time.monotonic() - began < 40  # its lease would expire after 60 s
    assert await active(client, "extract") == 0


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
