"""The gate that every stage run passes: fence, then a slot of Prefect's limit; recorded, logged and guarded.

Contract: inside ``gate(stage, ...)`` at most one run of an exclusive stage exists in all processes and on all
hosts, and it stays true after any process has died, because the fence stays closed until the last process
that works behind it is gone. A dead holder's slot is given back by whoever comes next, at once. A holder that
lost no more than its session (PostgreSQL was restarted) is given the seconds in which it learns of that.

Pitfalls: give :attr:`Held.socket` to every process that works behind the gate, or the fence opens with the
flow. Use it inside a task's body, never around a retry delay or a child run: others would wait for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psutil
from prefect.client.orchestration import PrefectClient, get_client
from psycopg.types.json import Jsonb

from flows.domain import Log
from flows.errors import DatabaseUnavailable, GateLost, StageTimedOut
from flows.gate import slot
from flows.gate.fence import Fence, fence
from flows.gate.lease_keeper import HAND_ON_WITHIN, current_keeper
from flows.gate.waiting_state import waiting_shown
from flows.ledger.session import Session, connect, fetch, fetch_one, fetch_together
from flows.stages.runner.process import Finished, Supervisor, standby

_NOUN = {"extract": "extraction", "convert": "conversion", "store": "store"}
_CLOSED = "another run closed this one as LOST"
#: Seconds within which a run that has lost its session, and that alone, has ended and closed its row: it
#: looks at its session every second. Until then whoever comes next looks again and again.
_LOSS_KNOWN_WITHIN, _LOOK_AGAIN = 3.0, 0.05
#: Seconds after which a grant is confirmed: with time for the answer before the lease is too old to hand on.
_CONFIRMED_AFTER = HAND_ON_WITHIN - 2.0
#: Sizes of the limits as the server last told this process; only gates with slots look at them.
_limits: dict[str, int] = {}


@dataclass
class Held:
    """What the work behind a gate gets, and tells: ``counts`` goes into the ledger when it ends.

    ``supervisor`` stands by to run the work's command, if the gate was given an environment for it.
    """

    stage_run_id: int
    attempt: int
    socket: int
    supervisor: Supervisor | None = None
    counts: dict[str, int] = field(default_factory=dict)

    async def run(self, argv: Sequence[str], *, timeout: float, memory: int | None = None) -> Finished:
        """Run ``argv`` by the supervisor that stands by: see :meth:`Supervisor.run`."""
        if self.supervisor is None:
            raise ValueError("a gate without an environment has no supervisor to run a command")
        return await self.supervisor.run(argv, timeout=timeout, memory=memory)


@asynccontextmanager
async def gate(
    stage: str,
    batch_id: str,
    *,
    database_url: str,
    log: Log,
    flow_run_id: UUID | None = None,
    task_run_id: UUID | None = None,
    session: Session | None = None,
    yielding: bool = False,
    environment: Mapping[str, str] | None = None,
    hold: Sequence[int] = (),
) -> AsyncIterator[Held]:
    """Wait for the gate of ``stage``, hold it around the body, and record wait, duration and outcome.

    Given an ``environment``, a supervisor for the work is started while the run waits; its tree holds the
    fence, and the descriptors in ``hold``. Given a ``session``, the fence is taken on it; its owner closes it
    if this raises, for it may still hold locks then.

    A ``yielding`` run lets others go first: see :func:`flows.gate.fence.fence`.
    Raises LimitMissing, DatabaseUnavailable, or GateLost when session or lease were lost and the body was
    cancelled for it; whatever the body raises is recorded and raised again.
    """
    noun = _NOUN[stage]
    async with get_client() as client, _own_or(session, database_url) as session:
        run = await fetch_one(
            session,
            "open_stage_run",
            batch_id=batch_id,
            stage=stage,
            host=socket.gethostname(),
            pid=os.getpid(),
            flow_run_id=flow_run_id,
            task_run_id=task_run_id,
        )
        run_id: int = run["stage_run_id"]
        entering = {"stage_run_id": run_id, "flow_run_id": flow_run_id, "within": HAND_ON_WITHIN}
        log.info("Waiting for %s lock  batch_id=%s", noun, batch_id)
        async with (
            _recorded(database_url, session, run_id),
            _standby(environment, (session.fileno(), *hold)) as supervisor,
            waiting_shown(stage, run_id, database_url, log) as over,
            _release_logged(noun, over, log),
        ):
            slots = 1
            if not run["exclusive"]:
                # A limit of 0 is a pause: the first in the queue waits for the server, not for a fence.
                slots = _limits.get(stage) or await slot.limit_of(client, stage) or 1
            async with (
                fence(session, stage, slots, yielding=yielding, then="enter_gate", **entering) as closed,
                _recorded(database_url, session, run_id),  # once more: a row is closed while its fence is
                _slot(client, closed, entering, task_run_id, log) as lease,
            ):
                over.set()
                log.info("%s lock acquired", noun.capitalize())
                held = Held(run_id, run["attempt"], closed.socket, supervisor)
                guards = [closed.prove_alive(), slot.renew(client, lease.id)]
                if run["exclusive"]:  # a lane of several slots does not stand still for one of them
                    guards.append(_keep_young(client, stage, lease))
                async with _guarded(*guards):
                    yield held
                duration = await _complete(closed, lease, run_id, held.counts)
                log.info(
                    "%s stage completed  batch_id=%s duration=%.2fs", stage.capitalize(), batch_id, duration
                )


@asynccontextmanager
async def _own_or(session: Session | None, database_url: str) -> AsyncIterator[Session]:
    if session is not None:
        yield session
        return
    async with await connect(database_url, "tdp gate") as session:
        yield session


@asynccontextmanager
async def _release_logged(noun: str, acquired: asyncio.Event, log: Log) -> AsyncIterator[None]:
    """Log the end of the lock, however it ends, if it was acquired."""
    try:
        yield
    finally:
        if acquired.is_set():
            log.info("%s lock released", noun.capitalize())


@asynccontextmanager
async def _standby(
    environment: Mapping[str, str] | None, hold: Sequence[int]
) -> AsyncIterator[Supervisor | None]:
    if environment is None:
        yield None
        return
    async with standby(env=environment, hold=hold) as supervisor:
        yield supervisor


@dataclass
class _Lease:
    id: UUID
    #: When the server granted it, or said last that it would, by the clock of this process's loop.
    granted_at: float
    is_parked: bool = False


@asynccontextmanager
async def _slot(
    client: PrefectClient, closed: Fence, entering: dict[str, Any], holder: UUID | None, log: Log
) -> AsyncIterator[_Lease]:
    """Hold a slot of the stage's limit, and start the run: with the lease left for it, if there is one.

    A lease on from hand to hand costs no request to the server and no gap in the lane. One whose grant is
    some seconds old is given back and taken anew, so that an operator who changes the limit is obeyed.
    """
    (entry,) = closed.entered
    clock = asyncio.get_running_loop().time
    deadline = clock() + _LOSS_KNOWN_WITHIN
    while True:
        for aged in entry["aged"]:
            await slot.release(client, aged, log)
        if not entry["dead"]:
            break
        if any(map(_may_live, entry["dead"])) and clock() < deadline:
            await asyncio.sleep(_LOOK_AGAIN)
        else:
            await _close_dead_runs(client, closed, entry["dead"], log)
        entry = await fetch_one(closed.session, "enter_gate", **closed.place, **entering)
    if entry["lease_id"]:
        lease = _Lease(entry["lease_id"], clock() - entry["age"])
    else:
        taken, _limits[closed.stage] = await slot.take(
            client, closed.stage, holder, lambda: _running(closed.session, closed.stage), log
        )
        lease = _Lease(taken, clock())
    try:
        if not entry["lease_id"]:
            await fetch(closed.session, "start_stage_run", **closed.place, **entering, lease_id=lease.id)
        yield lease
    finally:
        if not lease.is_parked:
            await slot.release(client, lease.id, log)


async def _keep_young(client: PrefectClient, stage: str, lease: _Lease) -> None:
    """Have the grant of the lease confirmed before it is too old to be handed on; return once it is not."""
    clock = asyncio.get_running_loop().time
    while True:
        await asyncio.sleep(lease.granted_at + _CONFIRMED_AFTER - clock())
        asked = clock()
        if not await slot.is_granted_still(client, stage, lease.id, _limits.get(stage)):
            return
        lease.granted_at = asked


@asynccontextmanager
async def _guarded(*guards: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Cancel the body once a guard raises, and raise GateLost in its place (as asyncio.timeout does)."""
    body = asyncio.current_task()
    if body is None:
        raise RuntimeError("a gate needs a running task")
    cancelling = body.cancelling()
    lost: list[BaseException] = []

    def on_end(guard: asyncio.Task[None]) -> None:
        if not guard.cancelled() and (error := guard.exception()) and not lost:
            lost.append(error)
            body.cancel()

    tasks = [asyncio.ensure_future(guard) for guard in guards]
    for task in tasks:
        task.add_done_callback(on_end)
    try:
        yield
    except asyncio.CancelledError:
        if lost and body.uncancel() <= cancelling:
            if not isinstance(lost[0], Exception):
                raise lost[0] from None  # SIGTERM, which Prefect raises wherever the process is just then
            raise GateLost(str(lost[0])) from lost[0]
        raise
    finally:
        for task in tasks:
            task.remove_done_callback(on_end)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _may_live(run: dict[str, Any]) -> bool:
    """Tell whether a run that lost its fence may have lost nothing else: its process is there, or far."""
    if run["host"] != socket.gethostname():
        return True
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(run["pid"]).status() != psutil.STATUS_ZOMBIE
    return False


async def _close_dead_runs(client: PrefectClient, held: Fence, dead: list[dict[str, Any]], log: Log) -> None:
    """Give back what dead holders of the stage's fence still hold by the ledger, then close their rows."""
    for row in dead:
        if row["lease_id"]:
            await slot.release(client, UUID(row["lease_id"]), log)
        error = f"its process (pid {row['pid']} on {row['host']}) died or was cut off from PostgreSQL"
        await fetch(held.session, "close_dead_stage_run", stage_run_id=row["stage_run_id"], error=error)
        log.warning("Closed the %s run of %s as LOST: %s", held.stage, row["batch_id"], error)


async def _running(session: Session, stage: str) -> int:
    running: int = (await fetch_one(session, "running_behind_gate", stage=stage))["running"]
    return running


async def _complete(closed: Fence, lease: _Lease, run_id: int, counts: dict[str, int]) -> float:
    """Close the row, leave the lease for the next run and open the fence; return the run's duration in s."""
    keeper = current_keeper()
    finish = {
        **closed.place,
        "stage_run_id": run_id,
        "outcome": "COMPLETED",
        "error": None,
        "counts": Jsonb(counts) if counts else None,
        "age": asyncio.get_running_loop().time() - lease.granted_at,
        "within": HAND_ON_WITHIN,
        "on_spec": keeper is not None,
    }
    # One after the other: who comes next must find this row closed.
    rows, opened = await fetch_together(
        closed.session,
        ("finish_stage_run", finish),
        ("open_fence_to_lease", {**closed.place, "lease_id": lease.id}),
        apart=True,
    )
    if not rows:
        raise GateLost(_CLOSED)
    lease.is_parked, closed.is_open = rows[0]["parked"], opened[0]["opened"]
    if lease.is_parked and keeper:
        keeper.note(lease.id)
    return rows[0]["duration"] or 0.0


async def _fail(session: Session, run_id: int, outcome: str, error: str) -> None:
    """Close the row unless a successor has done so."""
    unparked = dict.fromkeys(("counts", "age", "within", "on_spec", "space", "key"))
    values = {"stage_run_id": run_id, "outcome": outcome, "error": error}
    if not await fetch(session, "finish_stage_run", **unparked, **values):
        raise GateLost(_CLOSED)


@asynccontextmanager
async def _recorded(url: str, session: Session, run_id: int) -> AsyncIterator[None]:
    """Close the run's row with whatever the body raises."""
    try:
        yield
    except BaseException as error:
        outcome = "FAILED" if isinstance(error, Exception) else "CANCELLED"
        if isinstance(error, StageTimedOut):
            outcome = "TIMED_OUT"
        message = f"{type(error).__name__}: {error}".removesuffix(": ")
        # A row that cannot be closed now is closed as LOST by the next holder of the fence.
        with contextlib.suppress(DatabaseUnavailable, GateLost):
            # A session that is cancelled twice closes.
            if session.closed or isinstance(error, GateLost | DatabaseUnavailable):
                async with await connect(url, "tdp gate", patience=0) as fresh:
                    await _fail(fresh, run_id, outcome, message)
            else:
                await _fail(session, run_id, outcome, message)
        raise
