"""One Prefect automation for each condition of the monitor and each kind of failure, to notify operators.

The notification goes to the block document ``tdp-notify``, of any of Prefect's notification types. Without
that document the automations only record in the UI when they were triggered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.events.schemas.automations import Automation, AutomationCore

from flows.domain import BACKFILL, MAINTAIN, PROCESS_BATCH, PROCESS_INBOX

#: Name of the notification block document.
NOTIFY = "tdp-notify"
_HOW_TO_NOTIFY = (
    f"It notifies once a notification block named {NOTIFY} exists and `tdp apply` has run."
    " You can disable it; `tdp apply` overwrites other changes."
)
#: Marks the automations of this project; `tdp apply` does not touch others.
PREFIX = "tdp: "
#: The conditions of the monitor, with their meaning. postgres_down and prefect_server_down are missing:
#: Prefect cannot receive events while they last; /health and the Prometheus alerts report them.
CONDITIONS = {
    "stage_waits_long": "A stage run has been waiting for its gate for more than 10 minutes.",
    "stage_past_timeout": "A stage run is still at work after its timeout.",
    "stage_idle_beside_queue": "Batches are waiting for a stage that has not run anything for 10 minutes.",
    "intake_stands_still": "A run has held the intake lock for 10 minutes without receiving a file.",
    "extract_queue_long": "More than 50 batches are waiting for extract.",
    "extract_slow": "The extracts of the last hour took more than 20 minutes on average.",
    "bot_silent": "The Telegram bot has not reached Telegram for 3 minutes.",
    "bot_conflict": "Another process polls the same Telegram bot.",
    "uploads_stuck": "An upload to the bot has waited for more than 30 minutes, or an update was unreadable.",
    "memory_high": "The pipeline uses more than 20 % of the memory of the machine.",
    "cpu_high": "The pipeline uses more than 60 % of the cores of the machine.",
    "worker_down": "No worker is online.",
    "disk_down": "Less than 2 GiB of disk space are free.",
}
#: Failures that flows report by an event each, with their meaning.
REPORTED = {
    "file_quarantined": "A run has quarantined source files, or stored them only in part.",
    "rule_broken": "The audit of the maintain flow has found rows that break a rule of `tdp verify`.",
}
#: Failures that Prefect's own events report: their meaning, and the flows.
FAILED_RUNS = {
    "batch_failed": ("A batch has failed permanently.", [PROCESS_BATCH]),
    "run_failed": ("A run has failed or crashed.", [PROCESS_INBOX, BACKFILL, MAINTAIN]),
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
            return [{"type": "send-notification", "block_document_id": document.id}]
    return [{"type": "do-nothing"}]


def _wanted(actions: list[dict[str, Any]]) -> dict[str, AutomationCore]:
    detail = {"subject": "{{ event.resource.name }}", "body": "{{ event.payload.detail }}"}
    wanted = [
        _automation(name, meaning, _raised(name), actions, detail)
        for name, meaning in (CONDITIONS | REPORTED).items()
    ]
    for name, (meaning, flows) in FAILED_RUNS.items():
        state = "{{ event.resource['prefect.state-name'] }}: {{ event.resource['prefect.state-message'] }}"
        text = {"subject": f"{name} {{{{ event.resource.name }}}}", "body": state}
        wanted.append(_automation(name, meaning, _failed(flows), actions, text))
    return {automation.name: automation for automation in wanted}


def _raised(name: str) -> dict[str, Any]:
    """Return the trigger of an event of this project."""
    return {
        "match": {"prefect.resource.id": f"tdp.condition.{name}"},
        "expect": ["tdp.condition.raised"],
    }


def _failed(flows: list[str]) -> dict[str, Any]:
    """Return the trigger of a failed or crashed run of these flows."""
    return {
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "match_related": {"prefect.resource.role": "flow", "prefect.resource.name": flows},
        "expect": ["prefect.flow-run.Failed", "prefect.flow-run.Crashed"],
    }


def _automation(
    name: str, meaning: str, trigger: dict[str, Any], actions: list[dict[str, Any]], text: dict[str, str]
) -> AutomationCore:
    # Every field is set explicitly, because an update sends only the fields that were set.
    return AutomationCore.model_validate(
        {
            "name": PREFIX + name,
            "description": f"{meaning} {_HOW_TO_NOTIFY}",
            "enabled": True,
            "tags": ["tdp"],
            "trigger": {"type": "event", "posture": "Reactive", **trigger, "threshold": 1, "within": 0},
            "actions": [
                action | text if action["type"] == "send-notification" else action for action in actions
            ],
        }
    )


def _content(automation: Automation | AutomationCore) -> dict[str, Any]:
    return automation.model_dump(include=_COMPARED)
