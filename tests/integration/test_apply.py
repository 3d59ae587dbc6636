"""`tdp apply` on a real server: what it creates, what it repairs, what it leaves to operators."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import (
    BlockDocumentUpdate,
    BlockSchemaCreate,
    GlobalConcurrencyLimitUpdate,
    VariableUpdate,
)

from blocks import PIPELINE, PipelineConfig, StageCommand
from deployments import definitions, identity
from deployments.apply import apply, apply_basics
from deployments.reader import apply_reader
from flows.errors import ServiceFailed
from flows.settings import Settings

FILE = Path(definitions.__file__).parents[1] / "prefect.yaml"


@pytest.fixture
def prefect_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of prefect.yaml in the working directory."""
    copy = tmp_path / "prefect.yaml"
    copy.write_text(FILE.read_text())
    monkeypatch.chdir(tmp_path)
    return copy


@pytest.fixture
async def limits(installation: Settings) -> Iterator[None]:
    """Restore the limits afterwards, because other tests share the server."""
    yield
    async with get_client() as client:
        await client.upsert_global_concurrency_limit_by_name("store", 5)
    await apply_basics(installation)


async def applied(settings: Settings) -> None:
    """Apply all, or, if an earlier test has done so, only what is in the ledger of this test."""
    async with get_client() as client:
        if await client.read_deployments():
            await identity.pair(client, settings, replace=False)
            await asyncio.to_thread(apply_reader, settings.database, login=False)
            return
    await apply(settings)


async def test_a_second_apply_changes_nothing_and_a_paused_schedule_stays_paused(
    installation: Settings,
) -> None:
    await apply(installation)
    async with get_client() as client:
        inbox = await client.read_deployment_by_name("process-inbox/scheduled")
        before = await client.read_deployment_by_name("maintain/scheduled")
        await client.update_deployment_schedule(before.id, before.schedules[0].id, active=False)
        changes = await apply(installation)
        after = await client.read_deployment(before.id)
        await client.update_deployment_schedule(after.id, after.schedules[0].id, active=True)
        limits = await client.read_global_concurrency_limits()
    assert changes == []
    # Where no process looks at the inbox, maintenance activates its schedule.
    assert {schedule.slug: schedule.active for schedule in inbox.schedules} == {"every-five-minutes": False}
    assert {schedule.slug: schedule.active for schedule in before.schedules} == {"hourly": True}
    assert {schedule.slug: schedule.active for schedule in after.schedules} == {"hourly": False}
    assert (inbox.entrypoint, inbox.pull_steps) == ("flows.process_inbox.process_inbox", [])
    assert after.version not in (None, "", "{{ $TDP_VERSION }}")
    mine = {limit.name: limit.limit for limit in limits if not limit.name.startswith("deployment:")}
    assert mine == {"extract": 1, "convert": 1, "store": 5}


async def test_a_run_that_starts_or_ends_during_apply_is_not_a_change(installation: Settings) -> None:
    await applied(installation)
    async with get_client() as client:
        idle = await client.read_deployment_by_name("process-inbox/scheduled")
        slot = f"deployment:{idle.id}"  # acquired as by a run
        await client.update_global_concurrency_limit(slot, GlobalConcurrencyLimitUpdate(active_slots=1))
        at_work = await client.read_deployment(idle.id)
        await client.update_global_concurrency_limit(slot, GlobalConcurrencyLimitUpdate(active_slots=0))
    assert at_work.global_concurrency_limit and at_work.global_concurrency_limit.active_slots == 1
    assert definitions._content(idle) == definitions._content(at_work)


@pytest.mark.usefixtures("limits")
async def test_exclusive_limits_are_reset_and_the_store_limit_is_kept(
    installation: Settings,
) -> None:
    async with get_client() as client:
        await client.update_global_concurrency_limit("extract", GlobalConcurrencyLimitUpdate(limit=2))
        await client.update_global_concurrency_limit("convert", GlobalConcurrencyLimitUpdate(active=False))
        await client.update_global_concurrency_limit("store", GlobalConcurrencyLimitUpdate(limit=3))
        changes = await apply_basics(installation)
        now = {
            name: await client.read_global_concurrency_limit_by_name(name)
            for name in ("extract", "convert", "store")
        }
    assert changes == [
        "limit extract: reset from 2 to 1, its program cannot run twice",
        "limit convert: activated",
    ]
    assert {name: limit.limit for name, limit in now.items()} == {"extract": 1, "convert": 1, "store": 3}
    assert all(limit.active for limit in now.values())


@pytest.mark.usefixtures("limits")
async def test_a_deleted_limit_is_created_again(installation: Settings) -> None:
    async with get_client() as client:
        await client.delete_global_concurrency_limit_by_name("convert")
    assert await apply_basics(installation) == ["limit convert: created with 1"]


async def test_documents_edited_by_operators_are_kept(installation: Settings) -> None:
    command = ["/opt/extract", "{input}", "{output}"]
    try:
        await PipelineConfig(batch_size=3).asave(PIPELINE, overwrite=True)
        await StageCommand(command=command).asave("extract", overwrite=True)
        assert await apply_basics(installation) == []
        assert (await PipelineConfig.aload(PIPELINE)).batch_size == 3
        assert (await StageCommand.aload("extract")).command == command
    finally:
        await PipelineConfig.seed(installation).asave(PIPELINE, overwrite=True)
        await StageCommand().asave("extract", overwrite=True)


async def test_secrets_in_a_document_of_an_earlier_release_become_hidden(
    installation: Settings,
) -> None:
    await apply_basics(installation)
    slug = StageCommand.get_block_type_slug()
    async with get_client() as client:
        earlier = StageCommand.model_json_schema() | {"secret_fields": [], "title": "earlier"}
        block_type = await client.read_block_type_by_slug(slug)
        schema = await client.create_block_schema(
            BlockSchemaCreate(fields=earlier, block_type_id=block_type.id, capabilities=[])
        )
        document = await client.read_block_document_by_name("extract", slug)
        update = BlockDocumentUpdate(block_schema_id=schema.id, data={"environment": {"TOKEN": "secret"}})
        await client.update_block_document(document.id, update)
        shown = await client.read_block_document_by_name("extract", slug, include_secrets=False)
        assert shown.data["environment"] == {"TOKEN": "secret"}
        changes = await apply_basics(installation)
        hidden = await client.read_block_document_by_name("extract", slug, include_secrets=False)
    assert changes == [f"block {slug}/extract: updated to the schema of this release"]
    assert hidden.data["environment"] == {"TOKEN": "********"}
    assert (await StageCommand.aload("extract")).variables() == {"TOKEN": "secret"}
    assert await apply_basics(installation) == []


async def test_what_is_removed_from_the_file_is_removed_from_the_server(
    installation: Settings, prefect_yaml: Path
) -> None:
    await applied(installation)
    content = yaml.safe_load(prefect_yaml.read_text())
    by_entrypoint = {entry["entrypoint"]: entry for entry in content["deployments"]}
    del by_entrypoint["flows.process_inbox.process_inbox"]["schedules"]
    content["deployments"].remove(by_entrypoint["flows.process_batch.process_batch"])
    prefect_yaml.write_text(yaml.safe_dump(content))
    changes = await apply(installation)
    assert sorted(changes) == [
        "deployment process-batch/adhoc: removed, it is no longer in prefect.yaml",
        "deployment process-inbox/scheduled: schedule every-five-minutes removed",
    ]
    async with get_client() as client:
        assert (await client.read_deployment_by_name("process-inbox/scheduled")).schedules == []
    prefect_yaml.write_text(FILE.read_text())
    assert "deployment process-batch/adhoc: created" in await apply(installation)


async def test_a_server_of_another_home_is_refused_by_a_ledger_that_has_one(installation: Settings) -> None:
    await applied(installation)
    second = installation.model_copy(update={"home": installation.root / "second"})
    async with get_client() as client:
        own = await client.read_variable_by_name(identity.VARIABLE)
        assert own
        assert await identity.pair(client, second, replace=False) == []  # the same server: the home was moved
        # Another server has another id, or none.
        await client.update_variable(VariableUpdate(name=identity.VARIABLE, value=str(uuid4())))
        with pytest.raises(ServiceFailed, match=re.escape(str(second.root))):
            await apply(installation)
        await client.delete_variable_by_name(identity.VARIABLE)
        with pytest.raises(ServiceFailed, match="--replace-server"):
            await apply(installation)
        assert await apply(installation, replace_server=True) == [
            f"ledger: this Prefect server replaces that of {second.root}"
        ]
        replaced = await client.read_variable_by_name(identity.VARIABLE)
    assert replaced and replaced.value != own.value
    assert await apply(installation) == []


@pytest.mark.usefixtures("limits")
async def test_the_server_of_a_home_is_accepted_with_new_limits_and_without_its_id(
    installation: Settings,
) -> None:
    await applied(installation)
    async with get_client() as client:
        before = await client.read_variable_by_name(identity.VARIABLE)
        await client.delete_variable_by_name(identity.VARIABLE)
        await client.delete_global_concurrency_limit_by_name("store")
        assert await apply(installation) == ["limit store: created with 5"]
        after = await client.read_variable_by_name(identity.VARIABLE)
    assert before and after and before.value == after.value
