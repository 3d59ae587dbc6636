"""The state that the Prefect UI shows for a task that waits for its gate, with the holders in its message.

The engine calls the task Running, whether it waits or works. This adds state events of the task run in
between, as the engine emits them: they cost no request, and the server orders them by their times. A waiting
task is Pending by type, so that it has another colour than one that works, and no running clock. The engine's
own states are not touched, and nothing that goes wrong here reaches the stage.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from prefect.client.schemas.objects import State, StateType, TaskRun
from prefect.context import TaskRunContext
from prefect.utilities.engine import emit_task_run_state_change_event

from flows.domain import Log
from flows.errors import DatabaseUnavailable
from flows.ledger.owner import Owner
from flows.ledger.session import fetch

#: Seconds: a shorter wait is not worth an event; the interval between two checks of the holders doubles each
#: time.
_SHOWN_AFTER, _LOOK_AGAIN, _LOOK_AT_MOST = 1.0, 5.0, 60.0


@asynccontextmanager
async def waiting_shown(
    stage: str, stage_run_id: int, owner: Owner, log: Log
) -> AsyncIterator[asyncio.Event]:
    """Show the task of this context as "Waiting for ``stage``" until the event is set or the block ends."""
    over = asyncio.Event()
    context = TaskRunContext.get()
    if context is None:
        yield over
        return
    showing = asyncio.create_task(_show(context.task_run, stage, stage_run_id, owner, log, over))
    try:
        yield over
    finally:
        showing.cancel()
        (problem,) = await asyncio.gather(showing, return_exceptions=True)
        if isinstance(problem, Exception):
            log.warning("The wait of this task could not be shown in the Prefect UI: %r", problem)
        elif problem and not isinstance(problem, asyncio.CancelledError):
            raise problem  # SIGTERM, which Prefect raises at whatever point the process has reached


async def _show(
    task_run: TaskRun, stage: str, stage_run_id: int, owner: Owner, log: Log, over: asyncio.Event
) -> None:
    if await _is_set_within(over, _SHOWN_AFTER):
        return
    shown, pause = "", _LOOK_AGAIN
    while True:
        with suppress(DatabaseUnavailable, psycopg.Error):  # the stage itself meets that, and reports it
            message = _message(await fetch(owner.session, "holders", stage=stage, stage_run_id=stage_run_id))
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


def _message(holders: Sequence[Mapping[str, Any]]) -> str:
    """Name the holders, in words that stay true until there are others."""
    if not holders:
        return "No run holds a slot: the limit is paused, or the Prefect server does not respond"
    return "Held by " + ", ".join(
        "{batch_id} since {fenced_at:%H:%M:%S} UTC ({host} pid {pid})".format(**holder) for holder in holders
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
