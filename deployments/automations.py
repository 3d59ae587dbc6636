"""One Prefect automation for each condition that the monitor raises; it sends a notification if configured.

The notification goes to the block document ``tdp-notify``, of any of Prefect's notification types. Without
that document the automations only record in the UI when they were triggered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.events.schemas.automations import Automation, AutomationCore

#: Name of the notification block document.
NOTIFY = "tdp-notify"
#: Marks the automations of this project; `tdp apply` does not touch others.
PREFIX = "tdp: "
#: The conditions of the monitor, with their meaning. postgres_down and prefect_server_down are missing:
#: Prefect cannot receive events while they last; /health and the Prometheus alerts report them.
CONDITIONS = {
    "stage_waits_long": "A stage run has been waiting for its gate for more than 10 minutes.",
    "stage_past_timeout": "A stage run is still active after its time-out.",
    "stage_idle_beside_queue": "Batches are waiting for a stage that has not run anything for 10 minutes.",
    "intake_stands_still": "A run has held the intake lock for 10 minutes without receiving a file.",
    "extract_queue_long": "More than 50 batches are waiting for extract.",
    "extract_slow": "The extracts of the last hour took more than 20 minutes on average.",
    "memory_high": "The pipeline uses more than 20 % of the memory of the machine.",
    "cpu_high": "The pipeline uses more than 60 % of the cores of the machine.",
    "worker_down": "No worker is online.",
    "disk_down": "Less than 2 GiB of disk space are free.",
}
_COMPARED = {"description", "tags", "trigger", "actions"}


async def apply_automations(client: PrefectClient) -> AsyncIterator[str]:
    """Create, update and delete automations of this project; yield one line per change.

    An automation that operators disabled stays disabled.
    """
    wanted = _wanted(await _actions(client))
    for found in await client.read_automations():
        if not found.name.startswith(PREFIX):
            continue
        ours = wanted.pop(found.name, None)
        if ours is None:
            await client.delete_automation(found.id)
            yield f"automation {found.name}: removed"
        elif _content(found) != _content(ours):
            await client.update_automation(found.id, ours.model_copy(update={"enabled": found.enabled}))
            yield f"automation {found.name}: changed"
    for ours in wanted.values():
        await client.create_automation(ours)
        yield f"automation {ours.name}: created"


async def _actions(client: PrefectClient) -> list[dict[str, Any]]:
    for document in await client.read_block_documents(include_secrets=False):
        schema = document.block_schema
        if document.name == NOTIFY and schema and "notify" in schema.capabilities:
            text = {"subject": "{{ event.resource.name }}", "body": "{{ event.payload.detail }}"}
            return [{"type": "send-notification", "block_document_id": document.id, **text}]
    return [{"type": "do-nothing"}]


def _wanted(actions: list[dict[str, Any]]) -> dict[str, AutomationCore]:
    return {PREFIX + name: _automation(name, meaning, actions) for name, meaning in CONDITIONS.items()}


def _automation(name: str, meaning: str, actions: list[dict[str, Any]]) -> AutomationCore:
    # Every field is set explicitly, because an update sends only the fields that were set.
    return AutomationCore.model_validate(
        {
            "name": PREFIX + name,
            "description": f"{meaning} You can disable it; `tdp apply` overwrites other changes.",
            "enabled": True,
            "tags": ["tdp"],
            "trigger": {
                "type": "event",
                "posture": "Reactive",
                "match": {"prefect.resource.id": f"tdp.condition.{name}"},
                "expect": ["tdp.condition.raised"],
                "threshold": 1,
                "within": 0,
            },
            "actions": actions,
        }
    )


def _content(automation: Automation | AutomationCore) -> dict[str, Any]:
    return automation.model_dump(include=_COMPARED)
