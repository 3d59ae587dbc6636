"""Intake: a parent run claims new source files, cut into batches, and batches whose run died."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

from flows.errors import BatchBusy, DatabaseUnavailable
from flows.ledger.locks import INTAKE
from flows.ledger.session import Session, connect, fetch, fetch_one

#: Seconds between checks that the session of a run's lock is still alive.
_CHECK_INTERVAL = 2.0


@asynccontextmanager
async def own_run(flow_run_id: UUID, database_url: str) -> AsyncIterator[Session]:
    """Hold the lock on a parent run's id, which proves it alive, so that no other run claims its batches.

    Yields a session for the run's own queries. The lock is held by a second session, and is acquired again
    after PostgreSQL was restarted. Raises BatchBusy if the run is alive in another process.
    """
    async with await connect(database_url, f"tdp run {flow_run_id}") as lock:
        if not (await fetch_one(lock, "own_run", flow_run_id=flow_run_id))["owned"]:
            raise BatchBusy(f"flow run {flow_run_id} is alive in another process")
        keeper = asyncio.create_task(_reacquire_lock(lock, flow_run_id, database_url))
        try:
            async with await connect(database_url, f"tdp plan {flow_run_id}") as session:
                yield session
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)


async def _reacquire_lock(lock: Session, flow_run_id: UUID, database_url: str) -> None:
    await _until_lost(lock)
    while True:
        async with await connect(database_url, f"tdp run {flow_run_id}") as again:
            with suppress(DatabaseUnavailable):
                await fetch(again, "own_run", flow_run_id=flow_run_id)
                await _until_lost(again)


async def _until_lost(session: Session) -> None:
    with suppress(DatabaseUnavailable):
        while True:
            await asyncio.sleep(_CHECK_INTERVAL)
            await fetch(session, "alive")


@asynccontextmanager
async def planning(session: Session) -> AsyncIterator[None]:
    """Hold the intake lock: on all hosts, one run at a time reads an inbox, cuts batches or lists them."""
    await fetch(session, "lock_intake", space=INTAKE)
    try:
        yield
    finally:
        await fetch(session, "unlock_intake", space=INTAKE)


async def frozen_batches(session: Session, flow_run_id: UUID) -> list[str]:
    """Return the batches that this run froze when it was first planned; empty if it has none."""
    rows = await fetch(session, "frozen_batches", flow_run_id=flow_run_id)
    return [row["batch_id"] for row in rows]


async def freeze_batches(session: Session, flow_run_id: UUID, batch_size: int) -> list[str]:
    """Cut the source files without a batch into batches of ``batch_size``, and freeze the run's list.

    Unfinished batches of dead runs come first in the list. A retry of the run must process the same list in
    the same order, because Prefect matches the subflows of a retried run by their position only.
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
