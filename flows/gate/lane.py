"""A lane: all stage runs of one stage in this process, first come, first served, and the places they run on.

A place is what the gate consists of: a ledger session that holds a fence, and a lease on a slot of Prefect's
limit. An exclusive lane has one place; a lane of several slots has as many as it has runs at work. After a
run that has completed, a lane keeps its place for the next run for half a second, with its lease while that
is young, unless another process waits for the stage; then it releases both, and queues again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.responses import MinimalConcurrencyLimitResponse as Limit

from flows.domain import Log
from flows.errors import DatabaseUnavailable, GateLost
from flows.gate import slot
from flows.gate.predecessor import close_dead_runs
from flows.ledger.locks import FENCE, QUEUE, YIELDING, fence_key
from flows.ledger.session import Session, connect, fetch, fetch_one
from flows.stages.runner.completion import to_the_end

#: The error of a run that lost its connection to PostgreSQL, so that its batch had another owner meanwhile.
CLOSED = "another run closed this one as LOST"
#: Seconds for which a place is kept without a run. A process that comes meanwhile waits for one run at most.
_KEPT_FOR = 0.5
#: Seconds after its grant for which a lease is passed from run to run: after that, the next stage run uses a
#: changed limit.
KEEP_WITHIN = 5.0
#: Seconds between two attempts for a free slot; only the first waiter of one process tries.
_TRY_EVERY = 0.05
#: Runs after which a process that has more of them lets a yielding one of another process go first.
_IN_A_ROW = 10


@dataclass
class Entrant:
    """A stage run that is to enter: its row, and how it is shown in the ledger and in Prefect."""

    stage_run_id: int
    batch_id: str
    flow_run_id: UUID | None
    task_run_id: UUID | None
    log: Log


@dataclass
class Place:
    """A fence that is held by ``session``, and the lease of its slot."""

    session: Session
    slot: int
    lease: UUID | None = None
    limit: Limit | None = None
    granted_at: float = 0.0
    #: Releases it, unless it is cancelled because the next run has come.
    keeping: asyncio.Task[None] | None = None
    #: Whether the next run of this process may have it as it is.
    may_be_kept: bool = False


@dataclass
class Lane:
    """The stage runs of one stage in this process. Made by :class:`flows.gate.process_lanes.Lanes`."""

    stage: str
    position: int
    is_exclusive: bool
    url: str
    client: PrefectClient
    is_yielding: bool
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _waiting: int = 0
    _slots: int = 0
    _in_a_row: int = 0
    _sessions: set[Session] = field(default_factory=set)
    _idle: list[Session] = field(default_factory=list)
    _kept: list[Place] = field(default_factory=list)
    _is_kept: asyncio.Event = field(default_factory=asyncio.Event)
    _is_closing: asyncio.Event = field(default_factory=asyncio.Event)
    _keeping: set[asyncio.Task[None]] = field(default_factory=set)

    @asynccontextmanager
    async def place(self, entrant: Entrant) -> AsyncIterator[Place]:
        """Hold a place for ``entrant`` once all before it in this process have theirs, and start its row.

        Raises LimitMissing, DatabaseUnavailable if the session is lost, or GateLost if another run has
        claimed the batch and closed the row.
        """
        with ExitStack() as turn:
            self._waiting += 1
            try:
                await self._turn.acquire()
            finally:
                self._waiting -= 1
            turn.callback(self._turn.release)
            place = await self._enter(entrant)
            try:
                if not self.is_exclusive:
                    turn.close()
                yield place
            finally:
                await to_the_end(self._leave(place, entrant))

    async def finish(self, place: Place, **values: object) -> float:
        """Close the run's row as COMPLETED and return its duration in seconds.

        Raises LookupError if a successor has closed it as LOST.
        """
        row = await fetch_one(place.session, "finish_stage_run", **values, **self._locks(place.slot))
        self._in_a_row += 1
        lets_yielding = self.is_yielding or not self._waiting or self._in_a_row >= _IN_A_ROW
        place.may_be_kept = not (row["others_wait"] or (row["yielding_waits"] and lets_yielding))
        return float(row["duration"] or 0.0)

    async def close(self) -> None:
        """Release the places that are kept, and close the sessions."""
        self._is_closing.set()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        for session in self._sessions:
            await session.close()

    async def _enter(self, entrant: Entrant) -> Place:
        if kept := self._kept_one():
            with suppress(DatabaseUnavailable):  # its session was lost while no run needed it
                return await self._start(kept, entrant)
        return await self._start(await self._fenced(entrant), entrant)

    async def _start(self, place: Place, entrant: Entrant) -> Place:
        try:
            if asyncio.get_running_loop().time() - place.granted_at > KEEP_WITHIN:
                await to_the_end(self._release_lease(place, entrant))  # requested twice, it is counted twice
            if not await self._started(place, entrant):
                await self._acquire_lease(place, entrant)
                await fetch_one(place.session, "start_stage_run", **self._values(place, entrant))
        except BaseException as error:
            await to_the_end(self._release(place, entrant))
            if isinstance(error, LookupError):
                raise GateLost(CLOSED) from None
            raise
        return place

    async def _started(self, place: Place, entrant: Entrant) -> bool:
        """Enter the gate; return whether the run has started, which takes a lease and no dead run."""
        entered_at = asyncio.get_running_loop().time()
        row = await fetch_one(place.session, "enter_gate", **self._values(place, entrant))
        if row["dead"]:
            await close_dead_runs(place.session, row["dead"], entered_at, self.client, entrant.log)
        return bool(row["is_started"])

    async def _acquire_lease(self, place: Place, entrant: Entrant) -> None:
        if place.lease is None:
            place.lease, place.limit = await slot.acquire(
                self.client,
                self.stage,
                entrant.task_run_id,
                lambda: fetch_one(place.session, "leases_behind_gate", stage=self.stage),
                entrant.log,
                is_exclusive=self.is_exclusive,
            )
            place.granted_at = asyncio.get_running_loop().time()
            self._slots = place.limit.limit

    async def _fenced(self, entrant: Entrant) -> Place:
        """Wait for a fence of the stage and return a place without a lease."""
        session, place = await self._session(entrant), None
        self._in_a_row = 0
        try:
            if self.is_yielding:
                await fetch(session, "acquire_lock", space=YIELDING, key=self._key())
            if self.is_exclusive:
                await fetch(session, "acquire_lock", space=FENCE, key=self._key())
                return Place(session, 0)
            place = await self._first_free(session)
            await fetch(session, "release_lock", space=QUEUE, key=self._key())
            if self.is_yielding:
                await fetch(session, "release_lock", space=YIELDING, key=self._key())
        except BaseException:
            await session.close()  # what it has locked so far is released
            if place and place.session is not session:
                await to_the_end(self._release(place, entrant))
            raise
        if place.session is not session:
            self._idle.append(session)
        return place

    async def _first_free(self, session: Session) -> Place:
        """Wait, as the only one of all processes, for one of several fences, or for a place that is kept."""
        slots = self._slots or await slot.limit_of(self.client, self.stage) or 1
        await fetch(session, "acquire_lock", space=QUEUE, key=self._key())
        while True:
            self._is_kept.clear()
            rows = await fetch(session, "acquire_free_lock", space=FENCE, key=self._key(), slots=slots)
            if rows:
                return Place(session, rows[0]["slot"])
            if kept := self._kept_one():
                return kept
            with suppress(TimeoutError):
                async with asyncio.timeout(_TRY_EVERY):  # wait_for loses cancellations before Python 3.12
                    await self._is_kept.wait()

    async def _session(self, entrant: Entrant) -> Session:
        name = f"tdp {self.stage} {entrant.batch_id}"
        while self._idle:
            session = self._idle.pop()
            try:
                await fetch(session, "name_session", application=name)
                return session
            except DatabaseUnavailable:
                await session.close()
        session = await connect(self.url, name)
        self._sessions = {known for known in self._sessions if not known.closed} | {session}
        return session

    def _kept_one(self) -> Place | None:
        """Return a place that was kept for the next run; None if there is none."""
        place = self._kept.pop() if self._kept else None
        if place and place.keeping:
            place.keeping.cancel()
        return place

    async def _leave(self, place: Place, entrant: Entrant) -> None:
        if not place.may_be_kept:
            await self._release(place, entrant)
            return
        place.may_be_kept = False
        self._kept.append(place)
        self._is_kept.set()
        place.keeping = asyncio.create_task(self._keep(place, entrant))
        self._keeping.add(place.keeping)
        place.keeping.add_done_callback(self._keeping.discard)

    async def _keep(self, place: Place, entrant: Entrant) -> None:
        """Release the place when its time is over or the lane is closed, unless the next run has it.

        At SIGTERM, asyncio.run cancels every task, this one too.
        """
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_KEPT_FOR):
                    await self._is_closing.wait()
        finally:
            if place in self._kept:
                self._kept.remove(place)
                await to_the_end(self._release(place, entrant))

    async def _release(self, place: Place, entrant: Entrant) -> None:
        """Release the lease and the fence; where that fails, closing the session releases the fence.

        Side by side: the next holder of the fence asks the server for its lease after this request, and where
        the server answers in another order, it asks again.
        """
        releasing = asyncio.ensure_future(self._release_lease(place, entrant))
        try:
            await fetch(place.session, "release_lock", space=FENCE, key=self._key(place.slot))
            if self.is_yielding and self.is_exclusive:
                await fetch(place.session, "release_lock", space=YIELDING, key=self._key())
            self._idle.append(place.session)
        except (DatabaseUnavailable, psycopg.Error):
            await place.session.close()
        await releasing

    async def _release_lease(self, place: Place, entrant: Entrant) -> None:
        if place.lease and place.limit:
            await slot.release(self.client, place.lease, entrant.log)
            slot.emit("released", place.limit)
        place.lease = None

    def _key(self, slot_number: int = 0) -> int:
        return fence_key(self.position, slot_number)

    def _locks(self, slot_number: int) -> Mapping[str, Any]:
        """Return the values with which SQL finds whether another process waits for the stage."""
        return {
            "fence": FENCE,
            "queue": QUEUE,
            "yielding": YIELDING,
            "base": self._key(),
            "key": self._key(slot_number),
            "own_pids": [session.info.backend_pid for session in self._sessions if not session.closed],
        }

    def _values(self, place: Place, entrant: Entrant) -> Mapping[str, Any]:
        return {
            "stage": self.stage,
            "slot": place.slot,
            "space": FENCE,
            "base": self._key(),
            "stage_run_id": entrant.stage_run_id,
            "flow_run_id": entrant.flow_run_id,
            "lease_id": place.lease,
            "application": f"tdp {self.stage} {entrant.batch_id}",
        }
