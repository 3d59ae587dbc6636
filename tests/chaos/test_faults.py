"""Faults in every stage: nothing overlaps, nothing is lost or stored twice, and it goes on by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest
from plant import FLOW, Plant, kill

from flows import services

#: Each fault meets one stage in every run of the suite, and the others by `make chaos`.
matrix = pytest.mark.matrix
STAGES = (pytest.param("extract", marks=matrix), "convert", pytest.param("store", marks=matrix))
STORE = (pytest.param("extract", marks=matrix), pytest.param("convert", marks=matrix), "store")


@pytest.mark.parametrize("stage", STAGES)
def test_killed_stage_process_is_tried_again(plant: Plant, stage: str) -> None:
    plant.configure(**{stage: 1.0})
    flow = plant.start_flow()
    plant.work(flow, stage).kill()
    assert flow.wait(120) == 0, plant.logs()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind()
    assert {"stage": stage, "outcome": "FAILED"} in plant.query("SELECT stage, outcome FROM stage_runs")


@pytest.mark.parametrize("stage", STAGES)
def test_killed_flow_is_taken_up_by_the_next_run(plant: Plant, stage: str) -> None:
    plant.configure(**{stage: 1.0})
    flow = plant.start_flow()
    work = plant.work(flow, stage)
    flow.kill()
    flow.wait()
    assert psutil.wait_procs([work], 10)[1] == [], "the stage outlived its flow"
    plant.finish()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind()
    assert {"stage": stage, "outcome": "LOST"} in plant.query("SELECT stage, outcome FROM stage_runs")


@pytest.mark.parametrize("stage", STAGES)
def test_flow_whose_worker_was_killed_ends_at_once(plant: Plant, stage: str) -> None:
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
    plant.assert_nothing_left_behind()
    # Not tidied up: what tidies up around a broken pipe may hang half-way, with locks in its hands.
    assert plant.query("SELECT * FROM stage_runs WHERE outcome NOT IN ('COMPLETED', 'LOST')") == []


def test_power_cut(plant: Plant) -> None:
    plant.configure(extract=0.5, convert=0.5, store=0.5)
    flow = plant.start_flow()
    plant.in_stage("convert")
    kill([psutil.Process(flow.pid), plant.server, plant.postgres])
    flow.wait()
    plant.kill_server()
    plant.start_postgres()
    plant.start_server()
    plant.finish()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind()


@pytest.mark.parametrize("stage", STAGES)
def test_server_restarted_while_slots_are_held(plant: Plant, stage: str) -> None:
    plant.configure(**{stage: 2.0})
    flow = plant.start_flow()
    plant.in_stage(stage)
    plant.kill_server()
    plant.start_server()
    flow.wait(120)
    plant.finish()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind()


@pytest.mark.parametrize("how", [pytest.param(signal.SIGINT, marks=matrix), signal.SIGQUIT])
@pytest.mark.parametrize("stage", STORE)
def test_postgres_restarted(plant: Plant, stage: str, how: signal.Signals) -> None:
    plant.configure(**{stage: 2.0})
    flow = plant.start_flow()
    plant.in_stage(stage)
    plant.restart_postgres(how)
    flow.wait(120)
    plant.finish()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind()
