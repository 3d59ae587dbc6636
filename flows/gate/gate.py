"""The gate that every stage run passes: fence, then a slot of Prefect's limit; recorded, logged and proved.

Contract: inside ``gate(stage, ...)`` at most one run of an exclusive stage exists in all processes and on all
hosts, and it stays so after any process has died: README.md in this folder says why.

Pitfall: use it inside a task's body, never around a retry delay or a child run: other runs would wait while
no work is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import psycopg
from prefect.client.orchestration import PrefectClient
from psycopg.types.json import Jsonb

from flows.domain import Log, StopReason
from flows.errors import DatabaseUnavailable, GateLost, StageTimedOut
from flows.gate import slot
from flows.gate.lane import CLOSED, Entrant, Lane, Place
from flows.gate.process_lanes import Lanes
from flows.gate.waiting_state import waiting_shown
from flows.ledger.owner import Owner, prove
from flows.ledger.session import Session, connect, fetch
from flows.stages.runner.host_identity import place as host_place
from flows.stages.runner.process import Finished, Supervisor, standby

#: Why a run was cancelled for which no reason is known: SIGTERM has none.
_STOPPED = "its process was stopped, with the services or because its run was cancelled in Prefect"
_NOUN = {"extract": "extraction", "convert": "conversion", "store": "store"}


@dataclass
class Held:
    """The gate as the work behind it sees it; ``counts`` is recorded in the ledger when it ends."""

    stage_run_id: int
    attempt: int
    place: Place
    client: PrefectClient
    owner: Owner
    supervisor: Supervisor | None
    counts: dict[str, int] = field(default_factory=dict)

    async def run(self, argv: Sequence[str], *, timeout: float, memory: int | None = None) -> Finished:
        """Run ``argv`` under the supervisor that stands by: see :meth:`Supervisor.run`.

        Raises GateLost, with no process of the work left, once a session or the lease is lost.
        """
        if self.supervisor is None or self.place.lease is None:
            raise ValueError("a gate without an environment has no supervisor to run a command")
        generation = self.owner.generation
        renewal = asyncio.ensure_future(slot.renew(self.client, self.place.lease))

        async def proved() -> None:
            if renewal.done():
                renewal.result()
            await prove(self.place.session, "the session that holds the fence")
            await self.owner.prove(generation)

        try:
            held = (self.place.session.fileno(),)
            return await self.supervisor.run(argv, timeout=timeout, memory=memory, hold=held, prove=proved)
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)


@asynccontextmanager
async def gate(
    stage: str,
    batch_id: str,
    *,
    lanes: Lanes,
    log: Log,
    flow_run_id: UUID | None = None,
    task_run_id: UUID | None = None,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Held]:
    """Wait for the gate of ``stage``, hold it around the body, and record wait, duration and outcome.

    Given an ``environment``, a supervisor for the work is started while the run waits.
    Raises LimitMissing, DatabaseUnavailable or GateLost; what the body raises is recorded and raised again.
    """
    lane, owner = await lanes.lane(stage), lanes.owner
    run = await _opened(owner, stage, batch_id, lanes.locks, flow_run_id, task_run_id)
    entrant = Entrant(run["stage_run_id"], batch_id, flow_run_id, task_run_id, log)
    lock = Path(run["work_lock"])
    log.info("Waiting for %s lock  batch_id=%s", _NOUN[stage], batch_id)
    async with (
        _removed(lock),
        _recorded(owner, entrant),
        _standby(environment, lock) as supervisor,
        waiting_shown(stage, entrant.stage_run_id, owner, log) as over,
        _release_logged(stage, over, log),
        lane.place(entrant) as place,
        _recorded(owner, entrant, supervisor),  # once more: before the fence is released
    ):
        over.set()
        log.info("%s lock acquired", _NOUN[stage].capitalize())
        held = Held(entrant.stage_run_id, run["attempt"], place, lanes.client, owner, supervisor)
        yield held
        await _complete(lane, held, batch_id, log)


async def _opened(
    owner: Owner, stage: str, batch_id: str, locks: Path, flow_run_id: UUID | None, task_run_id: UUID | None
) -> psycopg.rows.DictRow:
    """Return the new row of a stage run: its id, attempt and the path of its work lock."""
    (row,) = await owner.fetch(
        "open_stage_run",
        batch_id=batch_id,
        stage=stage,
        host=socket.gethostname(),
        place=host_place(),
        pid=os.getpid(),
        locks=str(locks),
        flow_run_id=flow_run_id,
        task_run_id=task_run_id,
    )
    return row


@asynccontextmanager
async def _standby(environment: Mapping[str, str] | None, lock: Path) -> AsyncIterator[Supervisor | None]:
    if environment is None:
        yield None
        return
    async with standby(env=environment, lock=lock) as supervisor:
        yield supervisor


@asynccontextmanager
async def _removed(lock: Path) -> AsyncIterator[None]:
    """Remove the work lock when the tree has ended."""
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # if a row stays unfinished without it, its successor waits for longer


@asynccontextmanager
async def _release_logged(stage: str, acquired: asyncio.Event, log: Log) -> AsyncIterator[None]:
    """Log the release of the lock, if it was acquired, however the body ends."""
    try:
        yield
    finally:
        if acquired.is_set():
            log.info("%s lock released", _NOUN[stage].capitalize())


async def _complete(lane: Lane, held: Held, batch_id: str, log: Log) -> None:
    counts = Jsonb(held.counts) if held.counts else None
    try:
        duration = await lane.finish(held.place, stage_run_id=held.stage_run_id, counts=counts)
    except LookupError:
        raise GateLost(CLOSED) from None
    log.info("%s stage completed  batch_id=%s duration=%.2fs", lane.stage.capitalize(), batch_id, duration)


@asynccontextmanager
async def _recorded(
    owner: Owner, entrant: Entrant, supervisor: Supervisor | None = None
) -> AsyncIterator[None]:
    """Close the run's row with whatever the body raises, once its work is gone."""
    try:
        yield
    except BaseException as error:
        outcome = "FAILED" if isinstance(error, Exception) else "CANCELLED"
        if isinstance(error, StageTimedOut):
            outcome = "TIMED_OUT"
        values = {"stage_run_id": entrant.stage_run_id, "outcome": outcome, "error": _reason(error)}
        # A row that cannot be closed now is closed as LOST by the next holder of the fence.
        with contextlib.suppress(DatabaseUnavailable):
            try:
                await _close(owner.session, values, supervisor)
            except (DatabaseUnavailable, psycopg.Error):
                async with await connect(owner.url, "tdp gate", patience=0) as session:
                    await _close(session, values, supervisor)
        raise


def _reason(error: BaseException) -> str:
    """Return what the row says about the error that ended the run, or about its cancellation."""
    if isinstance(error, Exception):
        return f"{type(error).__name__}: {error}".removesuffix(": ")
    known = error.args[0] if error.args and isinstance(error.args[0], StopReason) else _STOPPED
    return f"cancelled: {known}"


async def _close(session: Session, values: Mapping[str, object], supervisor: Supervisor | None) -> None:
    """Close the row; if a successor has closed it as LOST, record when its work was in fact gone."""
    if await fetch(session, "fail_stage_run", **values) or supervisor is None:
        return
    if (ago := supervisor.ended_ago) is not None:
        await fetch(session, "extend_lost_stage_run", stage_run_id=values["stage_run_id"], ago=ago)
