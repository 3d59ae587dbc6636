"""Kills and outages in every stage: no overlap, nothing lost or stored twice, and recovery without help."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import psycopg
import pytest
from plant import FLOW, Plant
from plant_services import kill
from proxy import proxy

from flows import services

#: The suite has the faults by which data could be lost or stored twice, in one stage; `make chaos` has all,
#: in every stage.
matrix = pytest.mark.matrix
ALL = ("extract", "convert", "store")
#: Leases that a killed flow may leave until they expire: each of its lanes may have requested a slot and not
#: received the response.
KILLED = 3
#: Name space of the fences, and the key of each stage's first one: flows/ledger/locks.py.
GATE = 0x74647067
KEYS = {"extract": 1000, "convert": 2000, "store": 3000}


@matrix
@pytest.mark.parametrize("stage", ALL)
def test_killed_stage_process_is_retried(plant: Plant, stage: str) -> None:
    plant.configure(**{stage: 1.0})
    flow = plant.start_flow()
    plant.work(flow, stage).kill()
    assert flow.wait(120) == 0, plant.logs()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind()
    assert {"stage": stage, "outcome": "FAILED"} in plant.query("SELECT stage, outcome FROM stage_runs")


@matrix  # in the suite, integration/test_recover.py kills a flow, test_frozen.py its supervisor
@pytest.mark.parametrize("stage", ALL)
def test_stage_of_a_killed_flow_is_killed_and_its_batch_resumed(plant: Plant, stage: str) -> None:
    plant.configure(**{stage: 1.0})
    flow = plant.start_flow()
    work = plant.work(flow, stage)
    flow.kill()
    flow.wait()
    assert psutil.wait_procs([work], 10)[1] == [], "the stage outlived its flow"
    plant.finish()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind(lost_leases=KILLED)
    assert {"stage": stage, "outcome": "LOST"} in plant.query("SELECT stage, outcome FROM stage_runs")


@matrix
@pytest.mark.parametrize("stage", ALL)
def test_flow_of_a_killed_worker_exits_at_once(plant: Plant, stage: str) -> None:
    plant.configure(**{stage: 1.0})
    read, write = os.pipe()  # a worker reads the log of its flow runs, and its death breaks the pipe
    environment = {**os.environ, **services.environment(plant.settings)}
    command = [sys.executable, "-c", FLOW]
    flow = subprocess.Popen(command, env=environment, stdout=write, stderr=write, start_new_session=True)
    plant.flows.append(flow)
    os.close(write)
    work = plant.work(flow, stage)
    os.close(read)
    assert flow.wait(30) == 1
    assert psutil.wait_procs([work], 10)[1] == [], "the stage outlived its flow"
    plant.finish()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind(lost_leases=KILLED)
    # No stage run ended in order: clean-up that logs to a broken pipe could hang while it holds locks.
    assert plant.query("SELECT * FROM stage_runs WHERE outcome NOT IN ('COMPLETED', 'LOST')") == []


@matrix
@pytest.mark.parametrize("stage", ALL)
def test_flow_killed_while_it_waits_at_a_gate(plant: Plant, stage: str) -> None:
    plant.configure()
    with psycopg.connect(plant.settings.database, autocommit=True) as holder:
        for slot in range(5 if stage == "store" else 1):
            holder.execute("SELECT pg_advisory_lock(%s, %s)", [GATE, KEYS[stage] + slot])
        flow = plant.start_flow()
        waiting = "SELECT 1 FROM stage_runs WHERE stage = %s AND fenced_at IS NULL AND finished_at IS NULL"
        plant.until(lambda: plant.query(waiting, stage))
        flow.kill()
        flow.wait()
    plant.wait_until_done()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind(lost_leases=KILLED)


@matrix
@pytest.mark.parametrize("stage", ALL)
def test_flow_killed_between_stages(plant: Plant, stage: str) -> None:
    """The flow has finished the previous stage, or has just started, and is about to queue for ``stage``."""
    plant.configure()
    with plant.held("BEFORE INSERT ON stage_runs", f"NEW.stage = '{stage}'"):
        flow = plant.start_flow()
        plant.until(plant.is_held)
        flow.kill()
        flow.wait()
    plant.wait_until_done()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind(lost_leases=KILLED)


@matrix
@pytest.mark.parametrize("stage", ALL)
def test_flow_killed_after_its_slot_was_granted(plant: Plant, stage: str) -> None:
    """The server has granted the slot, and the response to the flow was lost."""
    plant.configure()
    with proxy(plant.settings.server_port, b"increment-with-lease", f'"names":["{stage}"]'.encode()) as lossy:
        flow = plant.start_flow(PREFECT_API_URL=f"http://127.0.0.1:{lossy.port}/api")
        assert lossy.lost.wait(60)
        flow.kill()
        flow.wait()
    plant.wait_until_done()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind(lost_leases=KILLED)


@matrix  # the suite kills a run alone, in integration/test_recover.py
def test_batches_of_a_killed_worker_are_claimed_by_the_next_run(plant: Plant) -> None:
    plant.configure(convert=1.0)
    worker = plant.start_worker()
    plant.start_recovery()
    run = plant.run_deployment("process-inbox/scheduled", batch_size=2)
    work = plant.work(None, "convert")
    began = time.monotonic()
    kill([worker])  # and its child, the flow run, as systemd does
    assert psutil.wait_procs([work], 10)[1] == [], "the stage outlived its worker"
    plant.start_worker()
    plant.until(lambda: plant.query("SELECT 1 FROM run_batches WHERE flow_run_id <> %s", run))
    claimed = time.monotonic() - began
    plant.until(plant.is_done, 120)
    plant.until(lambda: plant.state(run) == "Crashed")
    crashed = time.monotonic() - began
    print(f"claimed {claimed:.1f} s, crashed {crashed:.1f} s after the kill")  # noqa: T201 - figures
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind(lost_leases=KILLED)


@matrix
@pytest.mark.parametrize("stage", ALL)
def test_power_cut(plant: Plant, stage: str) -> None:
    plant.configure(extract=0.5, convert=0.5, store=0.5)
    flow = plant.start_flow()
    plant.in_stage(stage)
    kill([psutil.Process(flow.pid), plant.server, plant.postgres])
    flow.wait()
    plant.kill_server()
    plant.start_postgres()
    plant.start_server()
    plant.wait_until_done()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind(lost_leases=KILLED)


@pytest.mark.parametrize("down", [0, pytest.param(60, marks=matrix)])
@matrix
@pytest.mark.parametrize("stage", ALL)
def test_server_restarted_while_slots_are_held(plant: Plant, stage: str, down: int) -> None:
    plant.configure(**{stage: 2.0})
    plant.start_flow()
    plant.in_stage(stage)
    plant.kill_server()
    time.sleep(down)
    plant.start_server()
    plant.wait_until_done(240)
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind(lost_leases=3)


@matrix  # in the suite, integration/test_gate_losses.py tests that the slot is reclaimed
@pytest.mark.parametrize("stage", ALL)
def test_response_to_a_slot_request_is_lost(plant: Plant, stage: str) -> None:
    plant.configure()
    with proxy(plant.settings.server_port, b"increment-with-lease", f'"names":["{stage}"]'.encode()) as lossy:
        flow = plant.start_flow(PREFECT_API_URL=f"http://127.0.0.1:{lossy.port}/api")
        assert flow.wait(120) == 0, plant.logs()
        assert lossy.lost.is_set()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind(lost_leases=1)


@pytest.mark.parametrize("state", [pytest.param("RUNNING", marks=matrix), "COMPLETED"])
def test_response_to_the_state_of_a_batch_run_is_lost(plant: Plant, state: str) -> None:
    """Asked again, the server returns the state as it has it, without the result of the run."""
    plant.configure(files=2)
    with proxy(plant.settings.server_port, b"/set_state", f'"{state}"'.encode(), b'"batch_0') as lossy:
        flow = plant.start_flow(PREFECT_API_URL=f"http://127.0.0.1:{lossy.port}/api")
        assert flow.wait(120) == 0, plant.logs()
        assert lossy.lost.is_set()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind()


@matrix
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("stage", ALL)
def test_postgres_restarted(plant: Plant, stage: str, how: signal.Signals) -> None:
    plant.configure(**{stage: 2.0})
    flow = plant.start_flow()
    plant.in_stage(stage)
    plant.restart_postgres(how)
    assert flow.wait(150) == 0, plant.logs()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind(lost_leases=3)


@matrix
@pytest.mark.parametrize("stage", ALL)
def test_postgres_down_for_a_minute(plant: Plant, stage: str) -> None:
    plant.configure(**{stage: 2.0})
    plant.start_flow()
    plant.in_stage(stage)
    plant.restart_postgres(signal.SIGINT, down=60)
    plant.wait_until_done(200)
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind(lost_leases=3)


@matrix
@pytest.mark.parametrize("stage", ALL)
def test_postgres_restarted_between_stages(plant: Plant, stage: str) -> None:
    plant.configure()
    with plant.held("BEFORE INSERT ON stage_runs", f"NEW.stage = '{stage}'"):
        flow = plant.start_flow()
        plant.until(plant.is_held)
        plant.restart_postgres(signal.SIGQUIT)
    assert flow.wait(150) == 0, plant.logs()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind(lost_leases=3)


def test_postgres_restarted_while_outcomes_are_recorded(plant: Plant) -> None:
    """A stage has ended and its slot is free; its outcomes of the files are being recorded in the ledger."""
    plant.configure(files=2)
    with plant.held("BEFORE UPDATE ON batch_files", "NEW.stage = 'convert'"):
        flow = plant.start_flow()
        plant.until(plant.is_held)
        plant.restart_postgres(signal.SIGQUIT)
    assert flow.wait(150) == 0, plant.logs()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind(lost_leases=3)


@pytest.mark.parametrize("how", [pytest.param(signal.SIGINT, marks=matrix), signal.SIGQUIT])
def test_postgres_restarted_during_the_commit_of_a_store(plant: Plant, how: signal.Signals) -> None:
    plant.configure()
    with plant.held("COMMIT OF messages"):
        flow = plant.start_flow()
        plant.until(plant.is_held)
        assert plant.query("SELECT 1 FROM pg_stat_activity WHERE query = 'COMMIT' AND state = 'active'")
        plant.restart_postgres(how)
    assert flow.wait(150) == 0, plant.logs()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind(lost_leases=3)


@matrix
def test_postgres_restarted_before_a_store_learns_of_its_commit(plant: Plant) -> None:
    plant.configure()
    with plant.held("COMMIT OF messages"):
        flow = plant.start_flow()
        plant.until(plant.is_held)
        stores = [work for work in psutil.Process(flow.pid).children(recursive=True) if _is_store(work)]
        for store in stores:
            store.suspend()
    plant.until(lambda: plant.query("SELECT 1 FROM messages"))
    plant.restart_postgres(signal.SIGQUIT)
    for store in stores:
        if store.is_running():
            store.resume()
    assert flow.wait(150) == 0, plant.logs()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind(lost_leases=3)


def _is_store(process: psutil.Process) -> bool:
    try:
        return "flows.stages.store" in process.cmdline()
    except psutil.Error:
        return False
