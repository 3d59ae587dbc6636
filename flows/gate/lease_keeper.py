"""Leases left on spec: after a stage run its slot stays taken for a few seconds, for the next run to come.

The next run, of whatever process, finds the lease in the ledger and asks the server for nothing: two requests
less for each stage run. What nobody has come for after :data:`HAND_ON_WITHIN` seconds, or when the flow ends,
the keeper gives back; for one that was killed, whoever comes next does, or :mod:`flows.operations.recovery`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from uuid import UUID

from prefect.client.orchestration import get_client

from flows.domain import Log
from flows.errors import DatabaseUnavailable
from flows.gate import slot
from flows.ledger.session import connect, fetch

#: A lease is handed on for as long, in seconds, after the server granted or confirmed it.
HAND_ON_WITHIN = 5.0
#: Seconds between two looks for leases that nobody has come for.
_LOOK_EVERY = 1.0
_current: ContextVar[LeaseKeeper | None] = ContextVar("lease_keeper", default=None)


class LeaseKeeper:
    """Remembers the leases that this process has left, and gives back those that nobody comes for."""

    def __init__(self, database_url: str, log: Log) -> None:
        """``database_url`` is the ledger's."""
        self._url, self._log = database_url, log
        self._left: dict[UUID, float] = {}

    def note(self, lease: UUID) -> None:
        """Look after a lease that was left in the ledger just now."""
        self._left[lease] = asyncio.get_running_loop().time()

    async def watch(self, end: asyncio.Event) -> None:
        """Give back what is left alone for too long, until ``end``."""
        while not end.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY):
                    await end.wait()
            now = asyncio.get_running_loop().time()
            # A lease that goes on from hand to hand is noted anew each time.
            if alone := [lease for lease, left in self._left.items() if now - left > HAND_ON_WITHIN]:
                await self.give_back(alone)

    async def give_back(self, leases: list[UUID] | None = None) -> None:
        """Give back these leases, or all, unless somebody has come for them."""
        mine = [*self._left] if leases is None else leases
        if not mine:
            return
        for lease in mine:
            del self._left[lease]
        try:
            async with get_client() as client, await connect(self._url, "tdp leases", patience=0) as session:
                rows = await fetch(session, "take_parked", lease_ids=mine)
                for row in rows:  # at once, they would wait for each other in the server's database
                    await slot.release(client, row["lease_id"], self._log)
        except DatabaseUnavailable as error:
            self._log.warning("Slots left for the next run will expire: %s", error)


def current_keeper() -> LeaseKeeper | None:
    """Return the keeper of this flow, if leases are to be left on spec."""
    return _current.get()


@asynccontextmanager
async def leases_kept(database_url: str, log: Log) -> AsyncIterator[None]:
    """Let the stage runs of the body, and of its subflows, leave their leases on spec."""
    keeper = LeaseKeeper(database_url, log)
    token = _current.set(keeper)
    end = asyncio.Event()
    watching = asyncio.create_task(keeper.watch(end))
    try:
        yield
    finally:
        _current.reset(token)
        end.set()  # not cancelled: a lease that it has taken up and not given back would have to expire
        try:
            await watching
        finally:
            await keeper.give_back()
