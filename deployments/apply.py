"""Configure a Prefect server for this project: limits, blocks, work pool, deployments, automations.

Also the role of the database that only reads (:mod:`deployments.reader`).

Idempotent: a second run changes nothing, and values that operators may change are preserved.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    WorkPoolCreate,
)
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker
from prefect_sqlalchemy import SqlAlchemyConnector

from blocks import DATABASE, PIPELINE, TELEGRAM, PipelineConfig, StageCommand, TelegramBot, connector
from deployments.automations import apply_automations
from deployments.definitions import apply_definitions
from deployments.identity import pair
from deployments.reader import apply_reader
from flows.domain import EXCLUSIVE_STAGES, STAGES
from flows.services import WORK_POOL, environment
from flows.settings import Settings

if TYPE_CHECKING:
    from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse

#: The store limit of a new installation; operators may change it.
STORE_LIMIT = 5


async def apply(settings: Settings, replace_server: bool = False) -> list[str]:
    """Configure the server of ``settings`` completely; return one line per change.

    Raises ServiceFailed if the ledger belongs to another server, unless this one is to replace it.
    """
    async with get_client() as client:
        changes = await pair(client, settings, replace_server)
    changes += await asyncio.to_thread(apply_reader, settings.database, login=settings.is_embedded)
    changes += await apply_basics(settings)
    async with get_client() as client:
        parts = (apply_definitions(client, environment(settings)), apply_automations(client))
        return changes + [change for part in parts async for change in part]


async def apply_basics(settings: Settings) -> list[str]:
    """Create or restore limits, blocks and the work pool; return one line per change."""
    async with get_client() as client:
        parts = (_limits(client), _blocks(client, settings), _work_pool(client))
        return [change for part in parts async for change in part]


async def _limits(client: PrefectClient) -> AsyncIterator[str]:
    for name in STAGES:
        limit = 1 if name in EXCLUSIVE_STAGES else STORE_LIMIT
        found = await _limit(client, name)
        if found is None:
            await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=limit))
            yield f"limit {name}: created with {limit}"
            continue
        if name in EXCLUSIVE_STAGES and found.limit != 1:
            await client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=1))
            yield f"limit {name}: reset from {found.limit} to 1, its program cannot run twice"
        if not found.active:
            await client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active=True))
            yield f"limit {name}: activated"


async def _limit(client: PrefectClient, name: str) -> GlobalConcurrencyLimitResponse | None:
    try:
        return await client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        return None


async def _blocks(client: PrefectClient, settings: Settings) -> AsyncIterator[str]:
    for block_type in (PipelineConfig, StageCommand, TelegramBot, SqlAlchemyConnector):
        await block_type.aregister_type_and_schema(client=client)
    documents: dict[str, Block] = {PIPELINE: PipelineConfig.seed(settings)}
    documents |= {stage: StageCommand() for stage in STAGES}
    documents[TELEGRAM] = TelegramBot.seed(settings)
    for name, block in documents.items():
        slug = block.get_block_type_slug()
        if not await _exists(client, type(block), name):
            await block.asave(name, client=client)
            yield f"block {slug}/{name}: created"
        elif await _is_of_another_release(client, type(block), name):
            # With the old schema the server would not know the new secret fields, nor the UI any new field.
            kept: Block = await type(block).aload(name, client=client)
            await kept.asave(name, overwrite=True, client=client)
            yield f"block {slug}/{name}: updated to the schema of this release"
    # The settings, not the operators, determine the address of the database.
    wanted = connector(settings.database)
    slug = wanted.get_block_type_slug()
    if not await _exists(client, SqlAlchemyConnector, DATABASE):
        await wanted.asave(DATABASE, client=client)
        yield f"block {slug}/{DATABASE}: created"
    elif (await SqlAlchemyConnector.aload(DATABASE, client=client)).connection_info != wanted.connection_info:
        await wanted.asave(DATABASE, overwrite=True, client=client)
        yield f"block {slug}/{DATABASE}: updated to the database of this installation"


async def _exists(client: PrefectClient, block_type: type[Block], name: str) -> bool:
    try:
        await client.read_block_document_by_name(
            name, block_type.get_block_type_slug(), include_secrets=False
        )
    except ObjectNotFound:
        return False
    return True


async def _is_of_another_release(client: PrefectClient, block_type: type[Block], name: str) -> bool:
    slug = block_type.get_block_type_slug()
    document = await client.read_block_document_by_name(name, slug, include_secrets=False)
    known = document.block_schema.checksum if document.block_schema else None
    return bool(known != block_type._calculate_schema_checksum())


async def _work_pool(client: PrefectClient) -> AsyncIterator[str]:
    try:
        await client.read_work_pool(WORK_POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        await client.create_work_pool(
            WorkPoolCreate(name=WORK_POOL, type=ProcessWorker.type, base_job_template=template)
        )
        yield f"work pool {WORK_POOL}: created"
