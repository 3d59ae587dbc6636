"""Leases, slots and limits that are lost or changed by hand while runs hold the fence."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Any

import pytest
from plant import Plant
from proxy import Proxy, proxy

from flows.errors import GateLost
from flows.gate.gate import gate
from flows.gate.process_lanes import lanes
from flows.ledger.owner import owner

matrix = pytest.mark.matrix
LIMIT = "v2/concurrency_limits"
AGAIN = """
import asyncio
from flows.backfill import backfill
asyncio.run(backfill(status="FAILED"))
"""


@matrix
@pytest.mark.parametrize("stage", ["extract", "convert", "store"])
def test_slot_count_and_limit_changed_while_stages_run(plant: Plant, stage: str) -> None:
    """Each holder meets another change; with the last one no further slot could be acquired."""
    plant.configure(files=8, **{stage: 1.0})
    limit = 5 if stage == "store" else 1
    full = {"limit": limit, "active_slots": 2 * limit}
    changes: list[dict[str, Any]] = [{"active_slots": 0}, {"limit": limit + 1}, full]
    flow = plant.start_flow()
    holder = 0
    for change in changes:
        holder = plant.in_stage(stage, after=holder)["stage_run_id"]
        plant.api("PATCH", f"{LIMIT}/{stage}", **change)
    assert flow.wait(120) == 0, plant.logs()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind()


@matrix
@pytest.mark.parametrize("change", ["deleted", "disabled"])
@pytest.mark.parametrize("stage", ["extract", "convert", "store"])
def test_limit_deleted_or_disabled_while_a_stage_runs(plant: Plant, stage: str, change: str) -> None:
    """The holder completes; the next waiter fails, and completes once the limit is restored."""
    from deployments.apply import apply_basics

    plant.configure(**{stage: 1.0})
    flow = plant.start_flow()
    plant.in_stage(stage)
    if change == "deleted":
        plant.api("DELETE", f"{LIMIT}/{stage}")
    else:
        plant.api("PATCH", f"{LIMIT}/{stage}", active=False)
    assert flow.wait(120) in (0, 1), plant.logs()
    errors = plant.query("SELECT error FROM stage_runs WHERE outcome = 'FAILED'")
    assert all("run `tdp apply`" in error["error"] for error in errors), errors
    asyncio.run(apply_basics(plant.settings))
    if errors:
        assert plant.start_flow(AGAIN).wait(120) == 0, plant.logs()
    plant.assert_nothing_lost_nothing_twice()
    # A lease that is released after its limit was deleted remains on the server until it expires.
    plant.assert_nothing_left_behind(lost_leases=5 if stage == "store" else 1)


@matrix
@pytest.mark.parametrize("stage", ["extract", "convert", "store"])
def test_revoked_lease(plant: Plant, stage: str) -> None:
    plant.configure(files=1, **{stage: 20.0})
    flow = plant.start_flow()
    run = plant.in_stage(stage)
    work = plant.work(flow, stage)
    plant.api("POST", f"{LIMIT}/decrement-with-lease", lease_id=str(run["lease_id"]))
    plant.until(lambda: not work.is_running(), 30)
    assert flow.wait(150) == 0, plant.logs()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind()
    lost = plant.query("SELECT outcome, error FROM stage_runs WHERE stage_run_id = %s", run["stage_run_id"])
    assert "revoked" in lost[0]["error"]


@matrix
@pytest.mark.parametrize("stage", ["extract", "convert", "store"])
@pytest.mark.timeout(600)
def test_renewal_unanswered_for_longer_than_a_lease(plant: Plant, stage: str) -> None:
    plant.configure(files=1, **{stage: 80.0})
    with proxy(plant.settings.server_port) as server:
        flow = plant.start_flow(PREFECT_API_URL=f"http://127.0.0.1:{server.port}/api")
        run = plant.in_stage(stage)
        work = plant.work(flow, stage)
        server.blocked.set()
        cut_off = time.monotonic()
        plant.until(lambda: not work.is_running(), 90)
        print(f"ended {time.monotonic() - cut_off:.1f} s after the cut")  # noqa: T201 - a figure
        server.blocked.clear()
        server.close_connections()
        flow.wait(300)
    plant.wait_until_done(300)
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind(lost_leases=2)
    lost = plant.query("SELECT outcome, error FROM stage_runs WHERE stage_run_id = %s", run["stage_run_id"])
    assert "could not be renewed" in lost[0]["error"]


@pytest.mark.parametrize("how", ["blocked", "gone"])
def test_stage_ends_before_a_lease_that_cannot_be_renewed_expires(
    plant: Plant, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With intervals reduced to a tenth, in which the client's own retries take longer than the lease."""
    from prefect.settings import temporary_settings

    monkeypatch.setattr("flows.gate.slot._RENEW_EVERY", 0.5)
    monkeypatch.setattr("flows.gate.slot._RENEW_WITHIN", 5.0)
    monkeypatch.setattr("flows.gate.slot._RELEASE_WITHIN", 1.0)
    plant.configure(files=1)
    (row,) = plant.query("INSERT INTO batch_processing (file_count) VALUES (0) RETURNING batch_id")
    with (
        proxy(plant.settings.server_port) as server,
        temporary_settings({"api.url": f"http://127.0.0.1:{server.port}/api"}),
        pytest.raises(GateLost, match="renewed"),
    ):
        asyncio.run(_hold_until_lost(plant, row["batch_id"], server, how))
    (run,) = plant.query("SELECT outcome, finished_at - started_at < '30 s' AS in_time FROM stage_runs")
    assert run == {"outcome": "FAILED", "in_time": True}


async def _hold_until_lost(plant: Plant, batch_id: str, server: Proxy, how: str) -> None:
    log = logging.getLogger("test")
    async with (
        owner(plant.settings.database, "test") as own,
        lanes(own, plant.settings.work_locks) as own_lanes,
        gate("extract", batch_id, lanes=own_lanes, log=log, environment=dict(os.environ)) as held,
    ):
        if how == "blocked":
            server.blocked.set()
        else:
            server.close()
        await held.run(["sleep", "120"], timeout=120)
