"""Cancel and Ctrl-C, and several runs that compete for one batch."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from plant import STAGES, Plant

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
    plant.run_deployment("process-inbox/scheduled")  # as the schedule does
    plant.until(plant.is_done, 120)
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind()


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
    assert sum("another run is working on batch_000001" in log or "'busy': 1" in log for log in said) >= 1
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind()
