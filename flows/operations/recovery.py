"""Recovery: set dead runs to Crashed, request a run that claims their batches, release leaked slots.

It does not change held batches, and holds the unfinished batches of cancelled runs.

    python -m flows.operations.recovery

This process also requests runs for files that arrive (:mod:`flows.operations.arrival`).

A round processes no batches, so rounds may overlap and run on several hosts at once. A run is dead if the
lock that it holds while it is alive is not held: the lock on its own id, or for process-batch the lock on its
batch or, in a parent's process, on the parent's id. A slot is leaked if its limit counts it while the stage
is idle: an operator changed the count, or deactivated the limit while a run held the slot.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple, TypeVar
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas import OrchestrationResult
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterId,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled, Crashed

from flows.batches.stopping import CANCELLED, how_to_continue
from flows.domain import FLOW_NAMES
from flows.ledger.session import Session, connect, fetch
from flows.operations.arrival import watch
from flows.operations.requests import OPEN, in_state, request_run, server_time
from flows.reports.visible import make_logs_visible
from flows.settings import Settings

#: Seconds between two rounds.
_INTERVAL = 5.0
#: Seconds between the two checks of a round that must both find a run dead or a batch orphaned.
_CHECK_INTERVAL = 3.0
#: Seconds in which a run must acquire its lock after it started, and all runs after PostgreSQL started.
_LOCK_GRACE = 15.0
#: Seconds in which a worker must start the process of a run (24 s were measured on a loaded machine).
_START_GRACE = 90.0
_GRACE = {StateType.RUNNING: _LOCK_GRACE, StateType.PENDING: _START_GRACE}
#: A stage is idle if no run has held a slot for this many seconds. A run releases its slot before that.
_IDLE_SECONDS = 25.0
#: How long after the end of a cancelled run a message is still added to its state.
_EXPLAINED_WITHIN = timedelta(minutes=10)
#: Most runs that one round reads; the next round reads the others.
_PAGE = 200

_log = logging.getLogger("flows.operations.recovery")
T = TypeVar("T")


@dataclass
class Recovered:
    """The results of one round.

    Flow runs and task runs set to Crashed, orphaned batches, the inbox run requested for them (None if none
    was), the number of leaked slots released by stage, the batches of cancelled runs that are held now, and
    the cancelled runs to whose state a message about them was added.
    """

    flow_runs: list[UUID] = field(default_factory=list)
    task_runs: list[UUID] = field(default_factory=list)
    batches: list[str] = field(default_factory=list)
    requested_run: UUID | None = None
    slots: dict[str, int] = field(default_factory=dict)
    held: list[str] = field(default_factory=list)
    explained: list[UUID] = field(default_factory=list)


class _Owner(NamedTuple):
    """The batch or flow run whose lock is held while a run is alive; the other field is None."""

    batch_id: str | None = None
    run_id: UUID | None = None


class _Orphan(NamedTuple):
    """An orphaned batch, and the last runs that processed and that listed it."""

    batch_id: str
    flow_run_id: UUID | None
    parent_run_id: UUID | None


async def recover(settings: Settings) -> Recovered:
    """Run one round. Raises DatabaseUnavailable, or an httpx error if the Prefect server is unavailable."""
    async with get_client() as client, await connect(settings.database, "tdp recover", patience=0) as ledger:
        dead, orphans = await asyncio.gather(
            _found_twice(lambda: _dead_runs(client, ledger)), _found_twice(lambda: _orphans(ledger))
        )
        done = Recovered()
        done.held = await _hold_cancelled(client, ledger, orphans)
        done.batches = [orphan.batch_id for orphan in orphans if orphan.batch_id not in done.held]
        done.explained = await _explain_cancelled(client, ledger)
        done.flow_runs = [run_id for run_id in dead if await _crash(client, run_id)]
        done.task_runs = await _crash_tasks(client)
        done.slots = await _release_leaked_slots(client, ledger)
        if done.batches:
            done.requested_run = await request_run(client, ledger, "recovery", done.batches)
    return done


async def _found_twice(check: Callable[[], Awaitable[list[T]]]) -> list[T]:
    """Return what two checks, _CHECK_INTERVAL apart, both find."""
    first = await check()
    if not first:
        return []
    await asyncio.sleep(_CHECK_INTERVAL)
    return [found for found in await check() if found in first]


async def _dead_runs(client: PrefectClient, ledger: Session) -> list[UUID]:
    """Return the runs that are open according to Prefect, but whose lock is not held."""
    open_runs = await client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=FLOW_NAMES)),
        flow_run_filter=FlowRunFilter(state=in_state(*_GRACE)),
        sort=FlowRunSort.START_TIME_ASC,
        limit=_PAGE,
    )
    if not open_runs:
        return []
    now = await server_time(client)
    locks = await _locks(client, [run for run in open_runs if _is_past_grace(run, now)])
    live = await fetch(
        ledger,
        "live_runs",
        flow_run_ids=[str(run_id) for run_id in locks],
        batch_ids=[lock.batch_id for lock in locks.values()],
        run_ids=[lock.run_id for lock in locks.values()],
        grace=_LOCK_GRACE,
    )
    alive = {row["flow_run_id"] for row in live}
    return [run_id for run_id in locks if str(run_id) not in alive]


def _is_past_grace(run: FlowRun, now: datetime) -> bool:
    if run.state is None:
        return False
    age, grace = now - run.state.timestamp, timedelta(seconds=_GRACE[run.state.type])
    return age > grace or age < -grace  # in the future: the server's clock was set back


async def _locks(client: PrefectClient, runs: Iterable[FlowRun]) -> dict[UUID, _Owner]:
    """Return the lock that is held while each run is alive, by the run itself or by its parent."""
    # A subflow that is a run of a deployment has its own process and holds its own lock.
    parts = {run.id: run.parent_task_run_id for run in runs if not run.deployment_id}
    tasks = await client.read_task_runs(
        task_run_filter=TaskRunFilter(id=TaskRunFilterId(any_=[part for part in parts.values() if part]))
    )
    parents = {task.id: task.flow_run_id for task in tasks}
    locks = {}
    for run in runs:
        if (part := parts.get(run.id)) in parents:
            locks[run.id] = _Owner(run_id=parents[part])
        elif batch_id := run.parameters.get("batch_id"):
            locks[run.id] = _Owner(batch_id=str(batch_id))
        else:
            locks[run.id] = _Owner(run_id=run.id)
    return locks


async def _orphans(ledger: Session) -> list[_Orphan]:
    rows = await fetch(ledger, "orphaned_batches")
    return [_Orphan(**row) for row in rows]


async def _hold_cancelled(client: PrefectClient, ledger: Session, orphans: list[_Orphan]) -> list[str]:
    """Hold the orphaned batches of cancelled runs, whose processes ended before they could do so."""
    owners = {run_id for orphan in orphans for run_id in orphan[1:] if run_id}
    if not owners:
        return []
    cancelled = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            id=FlowRunFilterId(any_=list(owners)), state=in_state(StateType.CANCELLED, StateType.CANCELLING)
        )
    )
    stopped = {run.id for run in cancelled}
    left = [orphan.batch_id for orphan in orphans if stopped & {*orphan[1:]}]
    rows = await fetch(ledger, "hold_batches", batch_ids=left, reason=CANCELLED)
    return [row["batch_id"] for row in rows]


async def _explain_cancelled(client: PrefectClient, ledger: Session) -> list[UUID]:
    """Add to the states of runs that a worker has set to Cancelled which batches are held."""
    runs = await client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=FLOW_NAMES)),
        flow_run_filter=FlowRunFilter(
            state=in_state(StateType.CANCELLED),
            end_time=FlowRunFilterEndTime.model_validate(
                {"after_": await server_time(client) - _EXPLAINED_WITHIN}
            ),
        ),
        limit=_PAGE,
    )
    plain = [run for run in runs if run.state and not (run.state.message or "").startswith("Stopped: ")]
    explained = []
    for run in plain:
        rows = await fetch(ledger, "held_of_run", flow_run_id=run.id)
        if rows:
            held = [row["batch_id"] for row in rows]
            message = f"Stopped: {CANCELLED}. {how_to_continue(held, run.deployment_id is not None)}"
            state: State[None] = Cancelled(message=message)
            await client.set_flow_run_state(run.id, state, force=True)
            explained.append(run.id)
    return explained


async def _crash(client: PrefectClient, run_id: UUID) -> bool:
    """Set a run to Crashed without force; return False if it is in a terminal state already."""
    message = "Its process has died: its lock is not held. Another run claims its unfinished batches."
    response: OrchestrationResult[None] = await client.set_flow_run_state(run_id, Crashed(message=message))
    return response.status == SetStateStatus.ACCEPT


async def _crash_tasks(client: PrefectClient) -> list[UUID]:
    """Set open task runs of crashed flow runs to Crashed; some reach the server up to a minute late."""
    tasks = await client.read_task_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=FLOW_NAMES)),
        flow_run_filter=FlowRunFilter(state=in_state(StateType.CRASHED)),
        task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=OPEN))),
        limit=_PAGE,
    )
    for task in tasks:
        await client.set_task_run_state(task.id, Crashed(message="Its flow run crashed."), force=True)
    return [task.id for task in tasks]


async def _release_leaked_slots(client: PrefectClient, ledger: Session) -> dict[str, int]:
    """Release the slots that limits count for idle stages; return their number by stage."""
    limits = await client.read_global_concurrency_limits(limit=_PAGE, offset=0)
    # Read after the limits: a stage in which a run has acquired a slot since then is not idle.
    rows = await fetch(ledger, "stages_at_rest", seconds=_IDLE_SECONDS)
    at_rest = {row["stage"] for row in rows}
    leaked = {
        limit.name: limit.active_slots
        for limit in limits
        if limit.name in at_rest and limit.active_slots and limit.active
    }
    for stage, slots in leaked.items():
        await client.release_concurrency_slots(names=[stage], slots=slots, occupancy_seconds=1.0)
    return leaked


async def _run_rounds(settings: Settings) -> None:
    while True:
        try:
            done = await recover(settings)
            if done != Recovered():
                _log.warning("%s", done)
        except Exception as error:  # a server that is unavailable now must find recovery running later
            _log.warning("This round failed, the next one follows in %g s: %r", _INTERVAL, error)
        await asyncio.sleep(_INTERVAL)


async def _run(settings: Settings) -> None:
    await asyncio.gather(_run_rounds(settings), watch(settings))


if __name__ == "__main__":
    make_logs_visible()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    asyncio.run(_run(Settings()))
