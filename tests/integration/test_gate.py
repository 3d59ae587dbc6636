"""The gate, with real processes, Prefect server and PostgreSQL: which runs may pass, how many, and in which
order."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from gates import active, contender, enter, enter_lane, exclusive, pass_gate, process, until
from ledger_rows import query
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.context import AsyncClientContext

from flows.errors import LimitMissing
from flows.gate.process_lanes import Lanes
from flows.settings import Settings

LOCKS = "SELECT * FROM advisory_locks"


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


async def test_a_missing_limit_is_an_error_that_names_the_command(
    installation: Settings, batches: list[str], client: PrefectClient
) -> None:
    await client.delete_global_concurrency_limit_by_name("convert")
    try:
        with pytest.raises(LimitMissing, match="tdp apply"):
            await pass_gate(installation, batches[0], "convert")
    finally:
        await client.upsert_global_concurrency_limit_by_name("convert", 1)
    (row,) = query(installation, "SELECT outcome, error FROM stage_runs")
    assert row["outcome"] == "FAILED"
    assert "LimitMissing" in row["error"]


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelling_a_waiting_run_leaves_no_lock(
    times: int, installation: Settings, batches: list[str], client: PrefectClient
) -> None:
    async with enter(installation, "extract", batches[0]):
        waiting = asyncio.create_task(pass_gate(installation, batches[1]))
        await until(lambda: query(installation, "SELECT 1 FROM pg_locks WHERE NOT granted"))
        for _ in range(times):
            waiting.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await asyncio.wait_for(pass_gate(installation, batches[2]), 10)
    assert await active(client, "extract") == 0
    outcomes = query(installation, "SELECT outcome FROM stage_runs ORDER BY stage_run_id")
    assert [row["outcome"] for row in outcomes] == ["COMPLETED", "CANCELLED", "COMPLETED"]


async def test_runs_of_a_process_have_one_lease_after_the_other_and_release_it_after_the_last(
    installation: Settings, batches: list[str], client: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with process(installation) as lanes:

        async def one(batch_id: str, stage: str) -> None:
            async with enter_lane(lanes, stage, batch_id):
                assert 1 <= await active(client, stage) <= 5

        async def all_released(stage: str) -> None:
            while await active(client, stage) or query(installation, LOCKS):
                await asyncio.sleep(0.05)

        await asyncio.gather(*(one(batch_id, "extract") for batch_id in batches[:4]))
        await asyncio.gather(*(one(batch_id, "store") for batch_id in batches[:12]))
        async with asyncio.timeout(30):
            await all_released("extract")
            await all_released("store")
        monkeypatch.setattr("flows.gate.lane._KEPT_FOR", 60.0)
        await one(batches[4], "convert")
        assert await active(client, "convert") == 1  # kept for the next run
        await one(batches[5], "convert")
    assert await active(client, "convert") == 0  # not kept by a process that ends
    for stage in ("extract", "convert"):
        leases = f"SELECT count(DISTINCT lease_id) AS n FROM stage_runs WHERE stage = '{stage}'"  # noqa: S608
        assert query(installation, leases) == [{"n": 1}]


async def test_a_place_is_not_kept_for_later_runs_while_a_yielding_process_waits(
    installation: Settings, batches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.gate.lane._KEPT_FOR", 600.0)

    async def one(lanes: Lanes, batch_id: str) -> None:
        async with enter_lane(lanes, "extract", batch_id):
            pass

    async with process(installation) as lanes, process(installation, is_yielding=True) as yielding:
        async with enter_lane(lanes, "extract", batches[0]):
            waiter = asyncio.create_task(one(yielding, batches[1]))
            await until(lambda: query(installation, "SELECT 1 FROM advisory_locks WHERE NOT granted"))
        await asyncio.wait_for(waiter, 60)


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
async def test_a_paused_limit_stops_all_runs_until_it_is_resumed(
    stage: str,
    limit: int,
    installation: Settings,
    batches: list[str],
    client: PrefectClient,
) -> None:
    await client.update_global_concurrency_limit(stage, GlobalConcurrencyLimitUpdate(limit=0))
    waiting = asyncio.create_task(pass_gate(installation, batches[0], stage))
    await until(lambda: query(installation, "SELECT 1 FROM stage_runs WHERE fenced_at IS NOT NULL"))
    done, _ = await asyncio.wait([waiting], timeout=1)
    assert not done
    await client.update_global_concurrency_limit(stage, GlobalConcurrencyLimitUpdate(limit=limit))
    await asyncio.wait_for(waiting, 10)
