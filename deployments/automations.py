"""One Prefect automation for each condition that the monitor raises: it notifies, if anybody is to be told.

Who is told is the block document ``tdp-notify``, of any of Prefect's notification types. Without one the
automations do nothing but stand in the UI with their history.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.events.schemas.automations import Automation, AutomationCore

#: Name of the notification block document.
NOTIFY = "tdp-notify"
#: Marks the automations that are ours; others are left alone.
PREFIX = "tdp: "
#: What the monitor raises, by name. Not here: postgres_down and prefect_server_down, of which Prefect cannot
#: hear while they last; /health and the Prometheus alerts tell of those.
CONDITIONS = {
    "stage_waits_long": "A stage run waits for its gate for more than 10 minutes.",
    "stage_past_timeout": "A stage run goes on past its time-out.",
    "stage_idle_beside_queue": "Batches wait for a stage that has not run anything for 10 minutes.",
    "extract_queue_long": "More than 50 batches wait for extract.",
    "extract_slow": "The extracts of the last hour took more than 20 minutes on average.",
    "memory_high": "The pipeline uses more than 20 % of the machine's memory.",
    "cpu_high": "The pipeline uses more than 60 % of the machine's cores.",
    "worker_down": "No worker is online.",
    "disk_down": "The disk is nearly full.",
}
_COMPARED = {"description", "tags", "trigger", "actions"}


async def apply_automations(client: PrefectClient) -> AsyncIterator[str]:
    """Make the server's automations ours; yield one line per change. One that operators disabled stays so."""
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
    # Everything is named: an update sends only what was set.
    return AutomationCore.model_validate(
        {
            "name": PREFIX + name,
            "description": f"{meaning} `tdp apply` keeps this as it is; disable it, or make one of your own.",
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
