"""What the Prefect UI shows of a task that waits for its gate: a state of that name, and who is in its way.

The engine calls it Running, waiting or working. This adds state events of the task run in between, as the
engine emits them: they cost no request, and the server orders them by their times. A waiting task is Pending
by type, so that it has another colour than one that works, and no running clock. The engine's own states are
not touched, and nothing that goes wrong here reaches the stage.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from prefect.client.schemas.objects import State, StateType, TaskRun
from prefect.context import TaskRunContext
from prefect.utilities.engine import emit_task_run_state_change_event
from psycopg.rows import DictRow

from flows.domain import Log
from flows.errors import DatabaseUnavailable
from flows.ledger.session import connect, fetch

#: Seconds. A shorter wait is not worth an event; the next look at the holder comes twice as late each time.
_SHOWN_AFTER, _LOOK_AGAIN, _LOOK_AT_MOST = 1.0, 5.0, 60.0


@asynccontextmanager
async def waiting_shown(
    stage: str, stage_run_id: int, database_url: str, log: Log
) -> AsyncIterator[asyncio.Event]:
    """Show the task of this context as "Waiting for ``stage``" until the event is set or the block ends."""
    over = asyncio.Event()
    context = TaskRunContext.get()
    if context is None:
        yield over
        return
    showing = asyncio.create_task(_show(context.task_run, stage, stage_run_id, database_url, log, over))
    try:
        yield over
    finally:
        showing.cancel()
        (problem,) = await asyncio.gather(showing, return_exceptions=True)
        if isinstance(problem, Exception):
            log.warning("That this task waited could not be shown: %r", problem)
        elif problem and not isinstance(problem, asyncio.CancelledError):
            raise problem  # SIGTERM, which Prefect raises wherever the process is just then


async def _show(
    task_run: TaskRun, stage: str, stage_run_id: int, database_url: str, log: Log, over: asyncio.Event
) -> None:
    if await _is_set_within(over, _SHOWN_AFTER):
        return
    shown, pause = "", _LOOK_AGAIN
    while True:
        with suppress(DatabaseUnavailable):  # the stage itself meets that, and says so
            async with await connect(database_url, f"tdp wait for {stage}", patience=0) as session:
                holders = await fetch(session, "in_the_way", stage=stage, stage_run_id=stage_run_id)
            message = _message(holders)
            if message != shown and not over.is_set():
                _emit(task_run, StateType.PENDING, f"Waiting for {stage}", message)
                log.info("%s", message)  # the UI shows no messages of task states
                shown = message
        if await _is_set_within(over, pause):
            break
        pause = min(2 * pause, _LOOK_AT_MOST)
    if shown:
        name = (task_run.state and task_run.state.name) or "Running"  # or Retrying
        _emit(task_run, StateType.RUNNING, name, f"Through the gate of {stage}")


def _message(holders: list[DictRow]) -> str:
    """Say who is in the way, in words that stay true until somebody else is."""
    if not holders:
        return "Nobody holds a slot: the limit is paused, or the Prefect server does not answer"
    return "Held by " + ", ".join(
        "{batch_id} since {fenced_at:%H:%M:%S} UTC ({host} pid {pid})".format(**row) for row in holders
    )


def _emit(task_run: TaskRun, kind: StateType, name: str, message: str) -> None:
    state: State[None] = State(type=kind, name=name, message=message)
    emit_task_run_state_change_event(task_run, initial_state=task_run.state, validated_state=state)


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):  # wait_for loses cancellations before Python 3.12
            return await event.wait()
    except TimeoutError:
        return False
