"""Sessions that the batches of a run have after each other: their locks open, and lost ones harm nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from flows.errors import BatchBusy
from flows.ledger.batches import own_batch
from flows.ledger.session import sessions_kept

SESSIONS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'tdp %' ORDER BY pid
"""


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """Somebody else's session."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        yield connection


async def made(ledger: psycopg.AsyncConnection, batches: int) -> list[str]:
    statement = (
        "INSERT INTO batch_processing (file_count) SELECT 0 FROM generate_series(1, %s) RETURNING batch_id"
    )
    return [row[0] for row in await (await ledger.execute(statement, [batches])).fetchall()]


async def sessions(ledger: psycopg.AsyncConnection) -> list[int]:
    return [row[0] for row in await (await ledger.execute(SESSIONS)).fetchall()]


async def all_have_ended(ledger: psycopg.AsyncConnection) -> None:
    """Wait for it: PostgreSQL takes a moment to see that a session was closed."""
    async with asyncio.timeout(10):
        while await sessions(ledger):
            await asyncio.sleep(0.01)


async def work(batch_id: str, url: str) -> None:
    async with own_batch(batch_id, url) as batch, batch.gate_session():
        pass


async def test_batches_one_after_the_other_have_the_same_sessions_and_open_locks(
    database_url: str, ledger: psycopg.AsyncConnection
) -> None:
    first, second = await made(ledger, 2)
    async with sessions_kept():
        await work(first, database_url)
        of_first = await sessions(ledger)
        async with own_batch(second, database_url) as batch, batch.gate_session():
            assert await sessions(ledger) == of_first
            async with own_batch(first, database_url):
                with pytest.raises(BatchBusy):
                    await work(second, database_url)
    assert len(of_first) == 2
    await all_have_ended(ledger)


async def test_lost_ones_are_replaced(database_url: str, ledger: psycopg.AsyncConnection) -> None:
    first, second = await made(ledger, 2)
    async with sessions_kept():
        await work(first, database_url)
        lost = await sessions(ledger)
        await ledger.execute("SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s::int[]) AS pid", [lost])
        async with own_batch(second, database_url) as batch, batch.gate_session():
            assert len(new := await sessions(ledger)) == 2
            assert not {*lost} & {*new}
    await all_have_ended(ledger)


async def test_those_of_a_batch_that_failed_are_closed(
    database_url: str, ledger: psycopg.AsyncConnection
) -> None:
    (batch_id,) = await made(ledger, 1)
    async with sessions_kept():
        with pytest.raises(ZeroDivisionError):
            async with own_batch(batch_id, database_url) as batch, batch.gate_session():
                raise ZeroDivisionError
        await all_have_ended(ledger)
