"""prefect.yaml has only keys that Prefect reads: Prefect ignores many unknown keys silently."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.cli.deploy._models import DeploymentConfig, RawScheduleConfig
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from deployments.definitions import TAG, wanted_schedules
from flows.services.prefect import WORK_POOL

ROOT = Path(__file__).parents[2]
FILE = ROOT / "prefect.yaml"
DEFINITIONS: dict[str, Any] = yaml.safe_load(FILE.read_text())
DEPLOYMENTS: list[dict[str, Any]] = DEFINITIONS["deployments"]

each_deployment = pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda entry: entry["entrypoint"])


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    module, _, function = deployment["entrypoint"].rpartition(".")
    found = getattr(import_module(module), function)
    assert isinstance(found, Flow)
    return found


def test_the_file_has_an_empty_pull_section() -> None:
    assert DEFINITIONS["pull"] == []
    assert set(DEFINITIONS) <= {"name", "prefect-version", "pull", "definitions", "deployments"}


@each_deployment
def test_prefect_reads_every_key(deployment: dict[str, Any]) -> None:
    assert set(deployment) <= set(DeploymentConfig.model_fields)
    assert set(deployment["work_pool"]) <= {"name", "work_queue_name", "job_variables"}
    variables = ProcessWorker.get_default_base_job_template()["variables"]["properties"]
    assert set(deployment["work_pool"].get("job_variables", {})) <= set(variables)


@each_deployment
def test_every_schedule_is_valid_and_has_a_distinct_slug(deployment: dict[str, Any]) -> None:
    schedules = [RawScheduleConfig(**schedule) for schedule in deployment.get("schedules", [])]
    assert all(schedule.slug and schedule.timezone for schedule in schedules)
    assert len({schedule.slug for schedule in schedules}) == len(schedules)


@each_deployment
def test_parameters_exist_in_the_flow(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    schedules = deployment.get("schedules", [])
    for given in (deployment, *schedules):
        assert set(given.get("parameters", {})) <= set(inspect.signature(flow.fn).parameters)
    assert deployment["enforce_parameter_schema"] is True


@each_deployment
def test_the_run_form_describes_every_parameter(deployment: dict[str, Any]) -> None:
    properties = parameter_schema(flow_of(deployment)).properties
    assert [name for name, field in properties.items() if not field.get("description")] == []


@each_deployment
def test_every_deployment_has_our_tag_and_work_pool(deployment: dict[str, Any]) -> None:
    assert TAG in deployment["tags"]
    assert deployment["work_pool"]["name"] == WORK_POOL
    assert deployment["description"].strip()


def test_names_match_the_wanted_schedules() -> None:
    names = {f"{flow_of(deployment).name}/{deployment['name']}" for deployment in DEPLOYMENTS}
    assert names == set(wanted_schedules(FILE))
    assert {"process-inbox/scheduled", "process-batch/adhoc"} <= names


def test_inbox_runs_overlap() -> None:
    by_entrypoint = {entry["entrypoint"]: entry for entry in DEPLOYMENTS}
    inbox = by_entrypoint["flows.process_inbox.process_inbox"]
    assert inbox["concurrency_limit"] == {"limit": 3, "collision_strategy": "CANCEL_NEW"}
