"""Cancel and Ctrl-C, and several runs that compete for one batch."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from plant import Plant
from plant_services import STAGES

from flows.batches.stopping import CANCELLED
from flows.samples import write_samples

matrix = pytest.mark.matrix
OBSTRUCTED = Path(__file__).parents[1] / "programs" / "obstructed.sh"
BACKFILL = """
import asyncio
from flows.backfill import backfill
print(asyncio.run(backfill(batch_ids=["batch_000001"])))
"""
BATCH = """
import asyncio
from flows.process_batch import process_batch
print(asyncio.run(process_batch("batch_000001")))
"""


@matrix
@pytest.mark.parametrize("stage", STAGES)
def test_cancelled_in_prefect(plant: Plant, stage: str) -> None:
    plant.configure(files=3, **{stage: 5.0})
    plant.start_worker()
    plant.start_recovery()
    run = plant.run_deployment("process-inbox/scheduled", batch_size=2)
    work = plant.work(None, stage)
    began = time.monotonic()
    plant.api("POST", f"flow_runs/{run}/set_state", state={"type": "CANCELLING"}, force=False)
    plant.until(lambda: not work.is_running(), 30)
    print(f"its process was gone after {time.monotonic() - began:.1f} s")  # noqa: T201 - a figure
    plant.until(lambda: plant.state(run) == "Cancelled")
    left = "SELECT DISTINCT status FROM batch_processing WHERE status <> 'COMPLETED'"
    plant.until(lambda: plant.query(left) == [{"status": "QUEUED"}])
    unfinished = "SELECT batch_id FROM batch_processing WHERE status <> 'COMPLETED' ORDER BY 1"
    assert set(held(plant).values()) == {CANCELLED}
    assert list(held(plant)) == [row["batch_id"] for row in plant.query(unfinished)]
    message = plant.until(lambda: way_on(plant, run), 30)
    assert all(batch_id in message for batch_id in held(plant))
    # A subflow whose process ended before it could report this is cancelled by Prefect's own clean-up.
    ended = {"Cancelled", "Completed"}
    plant.until(lambda: {state["name"] for state in children(plant, run).values()} <= ended)
    plant.api("POST", f"flow_runs/{run}/set_state", state={"type": "SCHEDULED", "name": "AwaitingRetry"})
    plant.until(plant.is_done, 120)
    assert held(plant) == {}
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind()


def way_on(plant: Plant, run: str) -> str | None:
    """Return the message of a run's state once it says how to go on."""
    message = plant.api("GET", f"flow_runs/{run}")["state"]["message"] or ""
    return message if "tdp resume" in message else None


@matrix
@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c(plant: Plant, stage: str) -> None:
    plant.configure(**{stage: 5.0})
    flow = plant.start_flow()
    work = plant.work(flow, stage)
    began = time.monotonic()
    flow.send_signal(signal.SIGINT)
    assert psutil.wait_procs([work], 10)[1] == []
    print(f"its process was gone after {time.monotonic() - began:.1f} s")  # noqa: T201 - a figure
    flow.wait(30)
    left = plant.query("SELECT DISTINCT status FROM batch_processing WHERE status <> 'COMPLETED'")
    assert left == [{"status": "QUEUED"}], plant.logs()
    plant.configure_stages({})
    plant.finish()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind()


@matrix
def test_two_parents_a_backfill_and_a_retry_compete_for_one_batch(plant: Plant) -> None:
    """One processes the batch; the others report that it is busy, or find nothing left to process."""
    flag = plant.folder / "flag"
    built_in = [sys.executable, "-I", "-m", "flows.stages.extract", "{input}", "{output}"]
    plant.configure_stages({"extract": ["sh", str(OBSTRUCTED), str(flag), *built_in]}, task_retries=0)
    plant.expected = write_samples(plant.settings.inbox, files=3, messages=30, seed=3, broken=1)
    plant.start_worker()
    fail, hold = Path(f"{flag}.fail"), Path(f"{flag}.hold")
    fail.touch()
    failed = plant.run_deployment("process-inbox/scheduled", batch_size=10)
    plant.until(lambda: plant.state(failed) == "Failed", 90)
    fail.unlink()
    hold.touch()

    plant.api("POST", f"flow_runs/{failed}/set_state", state={"type": "SCHEDULED", "name": "AwaitingRetry"})
    rivals = [plant.start_flow(BACKFILL), plant.start_flow(BATCH), plant.start_flow(), plant.start_flow()]
    plant.in_stage("extract")
    plant.until(lambda: sum(rival.poll() is not None for rival in rivals) >= len(rivals) - 1, 120)
    hold.unlink()
    for rival in rivals:
        rival.wait(120)
    plant.until(lambda: plant.state(failed) in ("Completed", "Failed"), 90)

    runs = plant.query("SELECT stage, outcome FROM stage_runs ORDER BY stage_run_id")
    assert [tuple(run.values()) for run in runs[1:]] == [(stage, "COMPLETED") for stage in STAGES]
    said = [log.read_text() for log in sorted(plant.folder.glob("flow[01].log"))]
    busy = ("another run is working on batch_000001", "other runs process batch_000001")
    assert any(words in log for words in busy for log in said)
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind()


def held(plant: Plant) -> dict[str, str]:
    """Return the held batches with the reason."""
    rows = plant.query(
        "SELECT batch_id, held_because FROM batch_processing WHERE held_at IS NOT NULL ORDER BY 1"
    )
    return {row["batch_id"]: row["held_because"] for row in rows}


def runs(plant: Plant, **wanted: object) -> list[dict[str, Any]]:
    """Return the flow runs of this test's ledger that match, the oldest first."""
    found = plant.api("POST", "flow_runs/filter", flow_runs=wanted, sort="START_TIME_ASC")
    return list(found)


def children(plant: Plant, parent: str) -> dict[str, dict[str, Any]]:
    """Return the state of each subflow of a run, by batch."""
    return {run["name"]: run["state"] for run in runs(plant, parent_flow_run_id={"any_": [parent]})}


def tdp(plant: Plant, *arguments: str) -> str:
    """Run the command line on the plant's installation."""
    command = [sys.executable, "-m", "flows.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def parent_of(plant: Plant) -> str:
    (row,) = plant.query("SELECT DISTINCT flow_run_id FROM run_batches")
    return str(row["flow_run_id"])


@pytest.mark.parametrize("how", ["cancelled", pytest.param("deleted", marks=matrix)])
def test_a_subflow_that_is_cancelled_or_deleted_ends_and_its_batch_is_held(plant: Plant, how: str) -> None:
    plant.configure(files=4)
    hold = plant.folder / "convert.hold"
    hold.touch()
    flow = plant.start_flow()
    work = plant.work(flow, "convert")
    (batch,) = plant.query("SELECT batch_id, flow_run_id FROM batch_processing WHERE status = 'CONVERTING'")
    if how == "cancelled":
        state = {"type": "CANCELLING"}
        plant.api("POST", f"flow_runs/{batch['flow_run_id']}/set_state", state=state, force=False)
    else:
        plant.api("DELETE", f"flow_runs/{batch['flow_run_id']}")
    plant.until(lambda: not work.is_running(), 10)
    hold.unlink()
    plant.until(lambda: held(plant) == {batch["batch_id"]: f"its run was {how} in Prefect"}, 10)
    flow.wait(120)
    parent = parent_of(plant)
    assert plant.state(parent) == "Completed", plant.logs()
    if how == "cancelled":
        state = children(plant, parent)[batch["batch_id"]]
        assert state["name"] == "Cancelled"
        assert f"tdp resume {batch['batch_id']}" in state["message"]
    plant.start_flow().wait(60)
    assert list(held(plant)) == [batch["batch_id"]]  # neither the run itself nor the next one processed it

    assert tdp(plant, "resume", batch["batch_id"]).startswith(batch["batch_id"])
    plant.finish()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind()


@matrix  # the suite cancels a subflow
@pytest.mark.parametrize("how", ["cancelling", "cancelled", "deleted"])
def test_a_parent_that_is_cancelled_or_deleted_ends_and_its_batches_are_held(plant: Plant, how: str) -> None:
    """A run without a worker: no process but its own can end it."""
    plant.configure(files=5)
    hold = plant.folder / "extract.hold"
    hold.touch()
    flow = plant.start_flow()
    work = plant.work(flow, "extract")
    # A subflow that is beginning may show Running until recovery finds that its process is gone.
    plant.until(lambda: len(plant.query("SELECT 1 FROM stage_runs")) == 3)
    parent = parent_of(plant)
    if how == "deleted":
        plant.api("DELETE", f"flow_runs/{parent}")
    else:
        state = {"type": how.upper()}
        plant.api("POST", f"flow_runs/{parent}/set_state", state=state, force=how == "cancelled")
    plant.until(lambda: not work.is_running(), 10)
    flow.wait(30)
    assert set(held(plant)) == {"batch_000001", "batch_000002", "batch_000003"}
    if how != "deleted":
        found = plant.api("GET", f"flow_runs/{parent}")["state"]
        assert (found["name"], "tdp resume" in found["message"]) == ("Cancelled", True)
        assert {state["name"] for state in children(plant, parent).values()} == {"Cancelled"}
    hold.unlink()
    plant.start_flow().wait(60)
    assert len(held(plant)) == 3
    tdp(plant, "resume", "--all")
    plant.finish()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind()


@matrix
def test_a_hold_ends_waits_and_lets_the_stage_at_work_finish(plant: Plant) -> None:
    plant.configure(files=5)
    hold = plant.folder / "extract.hold"
    hold.touch()
    flow = plant.start_flow()
    work = plant.work(flow, "extract")
    at_work = plant.in_stage("extract")["batch_id"]
    plant.until(lambda: plant.query("SELECT 1 FROM stage_runs HAVING count(*) = 3"))
    tdp(plant, "hold", "--all")
    waiting = "SELECT 1 FROM stage_runs WHERE finished_at IS NULL HAVING count(*) = 1"
    plant.until(lambda: plant.query(waiting), 10)
    assert work.is_running()
    parent = parent_of(plant)
    hold.unlink()
    flow.wait(60)
    for child in children(plant, parent).values():  # recovery writes its own message over any other
        assert child["message"].startswith("Stopped: ")
        assert "an operator held it" in child["message"]
    ended = plant.query("SELECT batch_id, stage FROM stage_runs WHERE outcome = 'COMPLETED'")
    assert ended == [{"batch_id": at_work, "stage": "extract"}]
    assert len(held(plant)) == 3
    shown = tdp(plant, "status") + tdp(plant, "batches") + tdp(plant, "show", at_work)
    assert shown.count("held") >= 5
    tdp(plant, "resume", at_work)
    plant.start_flow().wait(60)
    assert len(held(plant)) == 2
    tdp(plant, "resume", "--all")
    plant.finish()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind()
