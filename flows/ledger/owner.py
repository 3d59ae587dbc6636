"""The one session with which a process proves that it owns a flow run and its batches.

Contract: while an :class:`Owner` holds the lock on an id, no other process works on that run or batch. When
PostgreSQL has been unavailable, all locks are acquired again together; those that another process has
acquired meanwhile are in :attr:`Owner.lost`. Pitfall: work that continued in between was not protected by the
locks; :meth:`Owner.prove` reports that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from uuid import UUID

import psycopg
from psycopg.rows import DictRow

from flows.errors import BatchBusy, DatabaseUnavailable, GateLost
from flows.ledger.session import Session, connect, fetch, fetch_one

#: Seconds between two checks that the session is alive, and the longest wait for a response.
_LOOK_EVERY, _ANSWER_WITHIN = 2.0, 4.0
_current: ContextVar[Owner | None] = ContextVar("owner", default=None)


class Owner:
    """A session and the locks on ids that it holds. Made by :func:`owner` and :func:`own_run`."""

    def __init__(self, url: str, name: str, session: Session) -> None:
        """``name`` is shown by PostgreSQL as the application's."""
        self.url = url
        self.session = session
        #: The number of sessions opened so far, this one included.
        self.generation = 0
        #: Ids of batches whose lock another process has acquired since.
        self.lost: set[str] = set()
        self._name = name
        self._backend = session.info.backend_pid
        self._run: UUID | None = None
        self._batches: set[str] = set()
        self._lock = asyncio.Lock()

    async def fetch(self, statement: str, **values: object) -> list[DictRow]:
        """Run a statement that may be run twice: if PostgreSQL becomes unavailable, it is repeated
        afterwards."""
        async with self._lock:
            try:
                return await fetch(self.session, statement, **values)
            except DatabaseUnavailable:
                await self._connect_again()
                return await fetch(self.session, statement, **values)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Session]:
        """Yield the session for statements that belong together: no other task uses it meanwhile."""
        async with self._lock:
            yield self.session

    async def prove(self, generation: int) -> None:
        """Raise GateLost unless the session of that ``generation`` is alive and still the latest."""
        if self.generation != generation:
            raise GateLost("the session that owns the batch was lost")
        await prove(self.session, "the session that owns the batch")

    async def own_run(self, flow_run_id: UUID) -> None:
        """Acquire the lock on the run's id. Raises BatchBusy if the run is alive in another process."""
        (row,) = await self.fetch("own_run", flow_run_id=flow_run_id)
        if not row["owned"]:
            raise BatchBusy(f"flow run {flow_run_id} is alive in another process")
        self._run = flow_run_id

    async def own_batch(self, batch_id: str) -> str | None:
        """Acquire the lock on the batch's id; return its status, None if there is no such batch.

        Raises BatchBusy if a live run has it.
        """
        if batch_id in self._batches:
            raise BatchBusy(f"this run is working on {batch_id} already")
        (row,) = await self.fetch("own_batch", batch_id=batch_id)
        if not row["owned"]:
            raise BatchBusy(f"another run is working on {batch_id}")
        self._batches.add(batch_id)
        self.lost.discard(batch_id)
        status: str | None = row["status"]
        return status

    async def release_batch(self, batch_id: str) -> None:
        """Release the batch's lock; a session that is lost holds none."""
        self._batches.discard(batch_id)
        if batch_id not in self.lost:
            with suppress(DatabaseUnavailable):
                await fetch(self.session, "release_batch", batch_id=batch_id)

    async def _connect_again(self) -> None:
        await self.session.close()
        self.session = await connect(self.url, self._name)
        self.generation += 1
        # PostgreSQL may not have noticed yet that the session before is gone, and would keep its locks.
        await fetch(self.session, "terminate_session", pid=self._backend, application=self._name)
        self._backend = self.session.info.backend_pid
        if self._run:
            await fetch(self.session, "own_run", flow_run_id=self._run)
        for batch_id in self._batches:
            if not (await fetch_one(self.session, "own_batch", batch_id=batch_id))["owned"]:
                self.lost.add(batch_id)

    async def keep(self) -> None:
        """Acquire the locks again soon after a loss, also while no statement is run. Never returns."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            with suppress(DatabaseUnavailable, psycopg.Error):
                await self.fetch("alive")


async def prove(session: Session, what: str) -> None:
    """Raise GateLost unless the session, described by ``what``, answers within some seconds."""
    # Not asyncio.timeout: cut off from its server, psycopg first tries for up to 5 s to cancel the query. Not
    # wait_for: before Python 3.12 it loses a cancellation that meets the answer.
    proof = asyncio.ensure_future(fetch(session, "alive"))
    proof.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        answered, _ = await asyncio.wait([proof], timeout=_ANSWER_WITHIN)
        if not answered:
            raise GateLost(f"{what} was lost: PostgreSQL does not respond")
        proof.result()
    except DatabaseUnavailable as error:
        raise GateLost(f"{what} was lost: {error}") from error
    finally:
        proof.cancel()


@asynccontextmanager
async def owner(url: str, name: str) -> AsyncIterator[Owner]:
    """Yield the owner of the flow run that calls this, or one for the body alone if there is none."""
    if current := _current.get():
        yield current
        return
    async with _new_owner(url, name) as own:
        yield own


@asynccontextmanager
async def own_run(flow_run_id: UUID, url: str) -> AsyncIterator[Owner]:
    """Hold the lock that proves this run alive, so that no other run claims its batches.

    All batches of the body have the same owner. Raises BatchBusy if the run is alive in another process.
    """
    async with _new_owner(url, f"tdp run {flow_run_id}") as own:
        await own.own_run(flow_run_id)
        token = _current.set(own)
        try:
            yield own
        finally:
            _current.reset(token)


@asynccontextmanager
async def _new_owner(url: str, name: str) -> AsyncIterator[Owner]:
    own = Owner(url, name, await connect(url, name))
    keeper = asyncio.create_task(own.keep())
    try:
        yield own
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await own.session.close()
