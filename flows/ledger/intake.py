"""What a parent run claims: new source files cut into batches, and batches whose run died."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

from flows.errors import BatchBusy, DatabaseUnavailable
from flows.ledger.locks import INTAKE
from flows.ledger.session import Session, connect, fetch, fetch_one

#: Seconds between two looks whether a run's lock is still held.
_LOOK_EVERY = 2.0


@asynccontextmanager
async def own_run(flow_run_id: UUID, database_url: str) -> AsyncIterator[Session]:
    """Hold the lock that says this parent run lives, so that its batches are nobody else's.

    Yields a session for the run's own use. The lock has another one, and is taken again when PostgreSQL is
    back from being away. Raises BatchBusy if the run is alive in another process.
    """
    async with await connect(database_url, f"tdp run {flow_run_id}") as lock:
        if not (await fetch_one(lock, "own_run", flow_run_id=flow_run_id))["owned"]:
            raise BatchBusy(f"flow run {flow_run_id} is alive in another process")
        keeper = asyncio.create_task(_keep_owned(lock, flow_run_id, database_url))
        try:
            async with await connect(database_url, f"tdp plan {flow_run_id}") as session:
                yield session
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)


async def _keep_owned(lock: Session, flow_run_id: UUID, database_url: str) -> None:
    await _until_lost(lock)
    while True:
        async with await connect(database_url, f"tdp run {flow_run_id}") as again:
            with suppress(DatabaseUnavailable):
                await fetch(again, "own_run", flow_run_id=flow_run_id)
                await _until_lost(again)


async def _until_lost(session: Session) -> None:
    with suppress(DatabaseUnavailable):
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            await fetch(session, "alive")


@asynccontextmanager
async def planning(session: Session) -> AsyncIterator[None]:
    """Let one planner at a time look into inboxes and cut batches, on all hosts."""
    await fetch(session, "lock_intake", space=INTAKE)
    try:
        yield
    finally:
        await fetch(session, "unlock_intake", space=INTAKE)


async def frozen_batches(session: Session, flow_run_id: UUID) -> list[str]:
    """Return the list of batches this run froze when it was first planned; empty if it has none."""
    rows = await fetch(session, "frozen_batches", flow_run_id=flow_run_id)
    return [row["batch_id"] for row in rows]


async def freeze_batches(session: Session, flow_run_id: UUID, batch_size: int) -> list[str]:
    """Cut the sources that have no batch into batches of ``batch_size`` and freeze the run's list.

    Batches that a dead run left unfinished come first. A retry of the run must find the same list in the
    same order: Prefect knows the children of a run by their position alone.
    """
    async with session.transaction():
        batches = [row["batch_id"] for row in await fetch(session, "orphaned_batches")]
        sources = [row["source_id"] for row in await fetch(session, "unbatched_sources")]
        for start in range(0, len(sources), batch_size):
            batch = await fetch_one(session, "create_batch", source_ids=sources[start : start + batch_size])
            batches.append(batch["batch_id"])
        for position, batch_id in enumerate(batches):
            await fetch(
                session, "freeze_batch", flow_run_id=flow_run_id, position=position, batch_id=batch_id
            )
    return batches
