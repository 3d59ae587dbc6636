"""Automations on a real server: created, repaired, removed, and triggered by events of the monitor."""

from __future__ import annotations

import asyncio
import queue
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from uuid import UUID

import psycopg
import pytest
from block_documents import write_pipeline, write_stage
from listener import Listener
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import PrefectClient, get_client
from prefect.events.actions import DoNothing, SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger
from prefect.exceptions import ObjectNotFound

from deployments.automations import CONDITIONS, FAILED_RUNS, NOTIFY, PREFIX, REPORTED, apply_automations
from flows.errors import BatchesFailed, RulesBroken
from flows.maintain import maintain
from flows.monitor.health import Monitor
from flows.monitor.server import Watch
from flows.process_inbox import process_inbox
from flows.samples import write_samples
from flows.settings import Settings

ALL = [*CONDITIONS, *REPORTED, *FAILED_RUNS]
#: While these conditions hold, the Prefect server cannot receive events.
NOT_REPORTED = {"postgres_down", "prefect_server_down"}


@pytest.fixture
async def client(installation: Settings) -> AsyncIterator[PrefectClient]:
    """A client of a server without automations, before and after the test."""
    async with get_client() as client:
        await _remove_all(client)
        yield client
        await _remove_all(client)


async def _remove_all(client: PrefectClient) -> None:
    for automation in await client.read_automations():
        await client.delete_automation(automation.id)


@pytest.fixture
async def notify(client: PrefectClient, listener: Listener) -> AsyncIterator[UUID]:
    """Id of a notification block document that posts to the listener."""
    message = {"subject": "{{subject}}", "body": "{{body}}"}
    block = CustomWebhookNotificationBlock(name="test", url=listener.url, json_data=message)
    document_id = await block.asave(NOTIFY, overwrite=True)
    yield document_id
    with suppress(ObjectNotFound):
        await client.delete_block_document(document_id)


async def apply(client: PrefectClient) -> list[str]:
    return [change async for change in apply_automations(client)]


async def by_name(client: PrefectClient) -> dict[str, Automation]:
    return {automation.name: automation for automation in await client.read_automations()}


async def test_each_condition_has_an_automation_and_a_second_apply_changes_nothing(
    client: PrefectClient,
) -> None:
    assert sorted(await apply(client)) == sorted(f"automation {PREFIX}{name}: created" for name in ALL)
    made = await by_name(client)
    assert made.keys() == {PREFIX + name for name in ALL}
    assert all(NOTIFY in automation.description for automation in made.values())
    assert all(automation.actions == [DoNothing()] and automation.enabled for automation in made.values())
    assert await apply(client) == []


async def test_automations_exist_for_all_conditions_of_the_monitor(installation: Settings) -> None:
    health = Monitor(installation).health()
    # Problems of stages are conditions with their own names.
    down = {f"{name}_down" for name in health.components if name != "stages"}
    assert sorted(health.conditions.keys() | down - NOT_REPORTED) == sorted(ALL)


async def test_own_automations_are_repaired_and_those_of_operators_kept(client: PrefectClient) -> None:
    await apply(client)
    made = await by_name(client)
    slow, busy = made[f"{PREFIX}extract_slow"], made[f"{PREFIX}cpu_high"]
    await client.pause_automation(slow.id)
    await client.delete_automation(busy.id)
    trigger = EventTrigger(posture="Reactive", expect={"x"}, match={"prefect.resource.id": "x"})
    for name in (f"{PREFIX}of_an_older_release", "an operator's"):
        await client.create_automation(AutomationCore(name=name, trigger=trigger, actions=[DoNothing()]))
    assert await apply(client) == [
        f"automation {PREFIX}of_an_older_release: removed",
        f"automation {PREFIX}cpu_high: created",
    ]
    now = await by_name(client)
    assert "an operator's" in now
    assert (now[slow.name].id, now[slow.name].enabled) == (slow.id, False)


async def test_a_raised_condition_is_sent_through_the_notification_block(
    installation: Settings, client: PrefectClient, notify: UUID, listener: Listener
) -> None:
    name = f"{PREFIX}worker_down"
    await apply(client)
    (action,) = (await by_name(client))[name].actions
    assert isinstance(action, SendNotification)
    assert action.block_document_id == notify
    assert await apply(client) == []

    Watch(Monitor(installation)).check()  # this server has no worker
    messages = {}
    while "worker_down" not in messages:
        message = listener.received.get(timeout=30)
        messages[message["subject"]] = message["body"]
    assert messages["worker_down"] == "0 online"


async def test_automations_follow_the_notification_block(client: PrefectClient, notify: UUID) -> None:
    await apply(client)
    slow = (await by_name(client))[f"{PREFIX}extract_slow"]
    await client.pause_automation(slow.id)
    await client.delete_block_document(notify)
    changes = await apply(client)
    assert sorted(changes) == sorted(f"automation {PREFIX}{name}: changed" for name in ALL)
    now = await by_name(client)
    assert all(automation.actions == [DoNothing()] for automation in now.values())
    assert (now[slow.name].id, now[slow.name].enabled) == (slow.id, False)
    assert await apply(client) == []


@pytest.mark.usefixtures("notify")
async def test_failures_are_sent_through_the_notification_block(
    installation: Settings, client: PrefectClient, listener: Listener
) -> None:
    await apply(client)
    write_pipeline(task_retries=0, batch_size=2)
    flag = installation.root / "broken"
    built_in = f"{sys.executable} -I -m flows.stages.extract {{input}} {{output}}"
    script = f"test ! -e {flag} || exit 64; exec {built_in}"
    write_stage("extract", "sh", "-c", script)
    write_samples(installation.inbox, files=0, messages=5, seed=5, broken=1)
    await process_inbox()
    flag.touch()
    write_samples(installation.inbox, files=1, messages=5, seed=6, broken=0)
    with pytest.raises(BatchesFailed):
        await process_inbox()
    with psycopg.connect(installation.database) as connection:  # a batch that no rule allows
        connection.execute("UPDATE batch_processing SET status = 'COMPLETED'")
    with pytest.raises(RulesBroken):
        await maintain()
    wanted = {"file_quarantined", "batch_failed", "run_failed", "rule_broken"}
    messages: dict[str, str] = {}
    while missing := wanted - messages.keys():
        try:
            message = await asyncio.to_thread(listener.received.get, timeout=60)
        except queue.Empty:
            raise AssertionError(f"not sent: {missing}") from None
        messages.setdefault(message["subject"].split()[0], message["body"])
    assert "(batch_000001) was quarantined: " in messages["file_quarantined"]
    assert messages["batch_failed"].startswith("Failed: ")
    assert "rules are broken: " in messages["rule_broken"]
    conditions = Monitor(installation).health().conditions
    firing = {name: condition.detail for name, condition in conditions.items() if condition.firing}
    assert firing.keys() & wanted == wanted - {"batch_failed"}, "no batch is FAILED any more"
    assert "RulesBroken" in firing["rule_broken"]
