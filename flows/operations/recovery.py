"""Recovery of dead runs: Prefect learns that they crashed, and what they left is claimed again.

    python -m flows.operations.recovery

Nothing is worked off here: a round only tells what is dead and asks for a run of the inbox, so it may happen
twice, and on several hosts at once. A run is dead when nobody holds the lock it must hold while it works.
A slot is leaked when its limit counts it while the stage is at rest: somebody set the count by hand, or
switched the limit off under a holder.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import NamedTuple, TypeVar
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas import OrchestrationResult
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterId,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed, Scheduled

from flows.domain import FLOW_NAMES, INBOX_DEPLOYMENT
from flows.ledger.session import Session, connect, fetch
from flows.settings import Settings

#: Flows of ours. A run holds a lock of its own while it works; one of process-batch holds its batch's, or
#: leaves that to the run in whose process it is.
#: Seconds: between two rounds; between the two looks that must both find a run dead.
_ROUND, _SECOND_LOOK = 5.0, 3.0
#: Seconds a run, or all of them after a start of PostgreSQL, are given to take their locks.
_PATIENCE = 15.0
#: Seconds a worker is given to start the process of a run (24 s were measured on a loaded machine).
_START_PATIENCE = 90.0
#: One run of the inbox is asked for within as many seconds at most, be it one that dies as soon as it begins.
_ASK_EVERY = 15
_PATIENT = {StateType.RUNNING: _PATIENCE, StateType.PENDING: _START_PATIENCE}
_OPEN = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]
#: A stage is at rest when none of its runs has held a slot for so long: whoever ended gives his back by then.
_AT_REST = 25.0
#: Runs looked at in one round; the next one has the rest.
_PAGE = 200

_log = logging.getLogger("flows.operations.recovery")
T = TypeVar("T")


@dataclass
class Recovered:
    """What one round did: runs and task runs set to Crashed, batches nobody had, the run asked for them.

    ``slots`` counts by stage what was given back.
    """

    flow_runs: list[UUID] = field(default_factory=list)
    task_runs: list[UUID] = field(default_factory=list)
    batches: list[str] = field(default_factory=list)
    asked: UUID | None = None
    slots: dict[str, int] = field(default_factory=dict)


class _Owner(NamedTuple):
    """The batch or the flow run on whose id a lock is held while a run lives; the other one is None."""

    batch_id: str | None = None
    run_id: UUID | None = None


async def recover(settings: Settings) -> Recovered:
    """Do one round. Raises DatabaseUnavailable, and httpx errors while the Prefect server is away."""
    async with get_client() as client, await connect(settings.database, "tdp recover", patience=0) as ledger:
        dead, orphans = await asyncio.gather(
            _lasting(lambda: _dead_runs(client, ledger)), _lasting(lambda: _orphans(client, ledger))
        )
        done = Recovered(batches=orphans)
        done.flow_runs = [run_id for run_id in dead if await _crash(client, run_id)]
        done.task_runs = await _crash_tasks(client)
        done.slots = await _give_back_slots(client, ledger)
        if orphans:
            done.asked = await _ask_for_a_run(client)
    return done


async def _lasting(look: Callable[[], Awaitable[list[T]]]) -> list[T]:
    """Return what two looks both find."""
    first = await look()
    if not first:
        return []
    await asyncio.sleep(_SECOND_LOOK)
    return [found for found in await look() if found in first]


async def _dead_runs(client: PrefectClient, ledger: Session) -> list[UUID]:
    """Return the runs that Prefect takes for begun and whose lock nobody holds."""
    begun = await client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=FLOW_NAMES)),
        flow_run_filter=FlowRunFilter(state=_in_state(*_PATIENT)),
        sort=FlowRunSort.START_TIME_ASC,
        limit=_PAGE,
    )
    if not begun:
        return []
    now = await _server_time(client)
    locks = await _locks(client, [run for run in begun if _is_settled(run, now)])
    living = await fetch(
        ledger,
        "living_runs",
        flow_run_ids=[str(run_id) for run_id in locks],
        batch_ids=[lock.batch_id for lock in locks.values()],
        run_ids=[lock.run_id for lock in locks.values()],
        patience=_PATIENCE,
    )
    alive = {row["flow_run_id"] for row in living}
    return [run_id for run_id in locks if str(run_id) not in alive]


async def _server_time(client: PrefectClient) -> datetime:
    """Return the server's time, by which it dates states: our host's clock may be wrong."""
    return parsedate_to_datetime((await client.hello()).headers["date"])


def _is_settled(run: FlowRun, now: datetime) -> bool:
    if run.state is None:
        return False
    return run.state.timestamp < now - timedelta(seconds=_PATIENT[run.state.type])


async def _locks(client: PrefectClient, runs: Iterable[FlowRun]) -> dict[UUID, _Owner]:
    """Return the lock that each run, or the run it is part of, holds while it lives."""
    # A child that is a run of a deployment has a process of its own.
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


async def _orphans(client: PrefectClient, ledger: Session) -> list[str]:
    """Return the unfinished batches of the dead. Those of a cancelled run wait for the next scheduled one."""
    rows = await fetch(ledger, "orphaned_batches")
    owners = {row[name] for row in rows for name in ("flow_run_id", "parent_run_id") if row[name]}
    cancelled = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            id=FlowRunFilterId(any_=list(owners)), state=_in_state(StateType.CANCELLED, StateType.CANCELLING)
        )
    )
    stopped = {run.id for run in cancelled}
    return [row["batch_id"] for row in rows if not stopped & {row["flow_run_id"], row["parent_run_id"]}]


async def _crash(client: PrefectClient, run_id: UUID) -> bool:
    """Set a run to Crashed; False if it has ended meanwhile. Unforced: what has ended stays as it is."""
    message = "Its process is gone: nobody holds its lock. Its batches go on in another run."
    answer: OrchestrationResult[None] = await client.set_flow_run_state(run_id, Crashed(message=message))
    return answer.status == SetStateStatus.ACCEPT


async def _crash_tasks(client: PrefectClient) -> list[UUID]:
    """Set what Prefect takes for open task runs of crashed runs to Crashed; some turn up a minute late."""
    tasks = await client.read_task_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=FLOW_NAMES)),
        flow_run_filter=FlowRunFilter(state=_in_state(StateType.CRASHED)),
        task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=_OPEN))),
        limit=_PAGE,
    )
    for task in tasks:
        await client.set_task_run_state(task.id, Crashed(message="Its flow run crashed."), force=True)
    return [task.id for task in tasks]


async def _give_back_slots(client: PrefectClient, ledger: Session) -> dict[str, int]:
    """Release what limits count for stages at rest, and return how many slots of which."""
    limits = await client.read_global_concurrency_limits(limit=_PAGE, offset=0)
    # Looked at after the limits: who has taken a slot since is no longer at rest.
    rows = await fetch(ledger, "stages_at_rest", seconds=_AT_REST)
    at_rest = {row["stage"] for row in rows}
    leaked = {
        limit.name: limit.active_slots
        for limit in limits
        if limit.name in at_rest and limit.active_slots and limit.active
    }
    for stage, slots in leaked.items():
        await client.release_concurrency_slots(names=[stage], slots=slots, occupancy_seconds=1.0)
    return leaked


async def _ask_for_a_run(client: PrefectClient) -> UUID | None:
    """Start a run of the inbox, unless one is coming or at work, or the operators have paused it."""
    try:
        deployment = await client.read_deployment_by_name(INBOX_DEPLOYMENT)
    except ObjectNotFound:
        return None
    if deployment.paused:
        return None
    soon = await _server_time(client) + timedelta(seconds=_ROUND)
    coming = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]),
            state=_in_state(*_OPEN),
            expected_start_time=FlowRunFilterExpectedStartTime.model_validate({"before_": soon}),
        ),
        limit=1,
    )
    if coming:
        return None
    key = f"recovery-{int(time.time()) // _ASK_EVERY}"
    run = await client.create_flow_run_from_deployment(
        deployment.id, state=Scheduled(), tags=["recovery"], idempotency_key=key
    )
    return run.id


def _in_state(*types: StateType) -> FlowRunFilterState:
    return FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types)))


async def _forever(settings: Settings) -> None:
    while True:
        try:
            done = await recover(settings)
            if done != Recovered():
                _log.warning("%s", done)
        except Exception as error:  # whatever is away comes back; recovery must be there then
            _log.warning("nothing recovered this time: %r", error)
        await asyncio.sleep(_ROUND)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    asyncio.run(_forever(Settings()))
