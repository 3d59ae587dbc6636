"""Apply the deployments of prefect.yaml to the server with Prefect's own `prefect deploy`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse

from flows.errors import ServiceFailed, TdpError
from flows.services.processes import python

#: Marks the deployments of this project on the server; deployments without it are not touched.
TAG = "tdp"
_CHECKOUT = Path(__file__).parents[1]
#: Fields that differ after every deploy of the same file.
_ALWAYS_NEW = {"updated", "version_id", "version_info", "status", "last_polled", "branch", "version"}


class DefinitionsMissing(TdpError):
    """No prefect.yaml was found. Run `tdp apply` in the project's folder."""


def definitions_file() -> Path:
    """Return the prefect.yaml of the working directory, else of the checkout this package runs from."""
    for folder in (Path.cwd(), _CHECKOUT):
        if (folder / "prefect.yaml").exists():
            return folder / "prefect.yaml"
    raise DefinitionsMissing(
        f"No prefect.yaml in {Path.cwd()} or {_CHECKOUT}: run the command in the project's folder."
    )


async def apply_definitions(client: PrefectClient, environment: Mapping[str, str]) -> AsyncIterator[str]:
    """Create, update and delete the deployments of this project; yield one line per change."""
    file = definitions_file()
    before = {found.id: found for found in await _ours(client)}
    _prefect_deploy(file, environment)
    wanted = wanted_schedules(file)
    for found in await _ours(client):
        name = await _name(client, found)
        if name not in wanted:
            await client.delete_deployment(found.id)
            yield f"deployment {name}: removed, it is no longer in {file.name}"
            continue
        for schedule in found.schedules:
            # Schedules of the file have slugs; one that an operator created in the UI has none and is kept.
            if schedule.slug and schedule.slug not in wanted[name]:
                await client.delete_deployment_schedule(found.id, schedule.id)
                yield f"deployment {name}: schedule {schedule.slug} removed"
        if found.id not in before:
            yield f"deployment {name}: created"
        elif _content(found) != _content(before[found.id]):
            yield f"deployment {name}: changed"


def _prefect_deploy(file: Path, environment: Mapping[str, str]) -> None:
    command = python("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", file.name)
    env = {**os.environ, **environment, "TDP_VERSION": _version(file.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=file.parent, env=env)
    if done.returncode:
        raise ServiceFailed("`prefect deploy --all` failed:", *f"{done.stdout}{done.stderr}".splitlines())


def _version(folder: Path) -> str:
    """Return the output of `git describe` for the checkout, else the version of the package."""
    command = ["git", "describe", "--always", "--dirty", "--tags"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return version("telegram-data-processor")


def wanted_schedules(file: Path) -> dict[str, set[str]]:
    """Return the slugs of each deployment's schedules, by ``flow/deployment``."""
    wanted = {}
    for entry in yaml.safe_load(file.read_text())["deployments"]:
        # By convention of this project and of Prefect, process_inbox is the flow process-inbox.
        flow = entry["entrypoint"].rpartition(".")[2].replace("_", "-")
        wanted[f"{flow}/{entry['name']}"] = {schedule["slug"] for schedule in entry.get("schedules", [])}
    return wanted


async def _ours(client: PrefectClient) -> list[DeploymentResponse]:
    by_tag = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    return await client.read_deployments(deployment_filter=by_tag, limit=200)


async def _name(client: PrefectClient, deployment: DeploymentResponse) -> str:
    flow = await client.read_flow(deployment.flow_id)
    return f"{flow.name}/{deployment.name}"


def _content(deployment: DeploymentResponse) -> dict[str, Any]:
    content = deployment.model_dump(mode="json", exclude=_ALWAYS_NEW)
    for schedule in content["schedules"]:
        del schedule["updated"]
    if limit := content["global_concurrency_limit"]:
        del limit["active_slots"], limit["updated"]  # they change with each active run
    return content
