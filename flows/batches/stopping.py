"""End the work of runs that are to stop: cancelled or deleted in Prefect, held, or interrupted by Ctrl-C.

Prefect ends the process of a deployment's run that is cancelled. It does nothing for a subflow in its
parent's process, for a run that was deleted or forced into Cancelled, or for a run without a deployment; so
each process reads the states of all its open runs in one request every few seconds. A stopped run leaves its
unfinished batches held: no schedule continues them, only an operator does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import Abort, TerminationSignal
from prefect.states import Cancelled
from psycopg import Error as PostgresError

from flows.domain import Log, StopReason
from flows.errors import BatchHeld, DatabaseUnavailable
from flows.ledger.owner import Owner
from flows.ledger.session import fetch
from flows.stages.runner.completion import to_the_end

#: Seconds between two requests for the states of the open runs.
_LOOK_EVERY = 3.0
#: Seconds for which a run that ends waits to learn whether it was cancelled in Prefect.
_ASK_WITHIN = 5.0
#: Most runs whose states one request returns.
_PAGE = 200
#: Batch ids that a message lists.
_NAMED = 10
DELETED, CANCELLED = "its run was deleted in Prefect", "its run was cancelled in Prefect"
INTERRUPTED = "its run was interrupted in the terminal"

_current: ContextVar[Stops | None] = ContextVar("stops", default=None)
_interrupted: list[asyncio.Task[Any]] = []


class Stopped(Exception):
    """A run was ended because of ``reason``; ``held`` are the batches that it left held."""

    def __init__(self, reason: str, held: list[str]) -> None:
        """Made by :meth:`Stops.stoppable`."""
        super().__init__(reason)
        self.reason = reason
        self.held = held

    def state(self, log: Log, more: str = "") -> Any:
        """Log what was stopped and what continues it; return this as the flow's state, for it to return.

        ``more``: a further sentence. Raises Abort, which lets Prefect end the run without a state, if the run
        was deleted.
        """
        message = f"Stopped: {self.reason}. {how_to_continue(self.held, has_retry())} {more}".rstrip()
        log.warning("%s", message)
        if self.reason == DELETED:
            raise Abort(message)
        return Cancelled(message=message)


@dataclass
class _Run:
    task: asyncio.Task[Any]
    batch_id: str | None
    reason: str | None = None


@dataclass
class Stops:
    """The open runs of this process, and why each of them is to stop. Made by :func:`stops`."""

    owner: Owner
    client: PrefectClient
    log: Log
    #: Why the first of the runs, and so all of them, are to stop.
    reason: str | None = None
    _runs: dict[UUID, _Run] = field(default_factory=dict)

    @asynccontextmanager
    async def stoppable(self, run_id: UUID, batch_id: str | None = None) -> AsyncIterator[None]:
        """End the body once the run is to stop, hold its batches, and raise Stopped.

        ``batch_id`` is that of a run of process-batch; a parent run holds all batches of its list. Where the
        process is ended because Prefect cancels the run, the batches are held and the signal is raised again.
        """
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        run = self._runs[run_id] = _Run(task, batch_id)
        is_first = len(self._runs) == 1
        try:
            yield
        except BaseException as error:
            stop = stopped_by(error)
            if stop is None:
                raise
            reason = run.reason or self.reason or (INTERRUPTED if _interrupted else None)
            if reason and not isinstance(stop, TerminationSignal):
                while task.cancelling():
                    task.uncancel()
                raise Stopped(reason, await to_the_end(self._hold(run_id, run, reason))) from None
            if is_first:
                await to_the_end(self._hold_if_cancelled(run_id, run, reason))
            raise
        finally:
            del self._runs[run_id]

    def ensure_wanted(self) -> None:
        """Raise CancelledError if all runs of this process are to stop, because that has ended the batch,
        too."""
        if self.reason or _interrupted:
            raise asyncio.CancelledError(StopReason(self.reason or INTERRUPTED))

    async def watch(self) -> None:
        """Stop the runs that are to stop, every few seconds. Never returns."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            try:
                reasons = {**await self._held(), **await reasons_in_prefect(self.client, list(self._runs))}
            except (httpx.HTTPError, DatabaseUnavailable, PostgresError) as error:
                self.log.debug("The states of this run's batches are unknown, trying again: %r", error)
                continue
            for run_id, reason in reasons.items():
                self._stop(run_id, reason)

    def _stop(self, run_id: UUID, reason: str) -> None:
        run = self._runs.get(run_id)
        if run is None or run.reason:
            return
        run.reason = reason
        if run_id == next(iter(self._runs)):
            self.reason = reason
        run.task.cancel(StopReason(reason))

    async def _held(self) -> dict[UUID, str]:
        """Return the runs whose batch an operator has held and of which no stage is at work."""
        runs = {run.batch_id: run_id for run_id, run in self._runs.items() if run.batch_id}
        rows = await self.owner.fetch("held_batches", batch_ids=list(runs)) if runs else []
        return {runs[row["batch_id"]]: row["held_because"] for row in rows if not row["at_work"]}

    async def _hold(self, run_id: UUID, run: _Run, reason: str) -> list[str]:
        # This does not wait for an unavailable PostgreSQL: recovery holds the batches of cancelled runs.
        with suppress(DatabaseUnavailable, PostgresError):
            if run.batch_id is None:
                rows = await fetch(self.owner.session, "hold_listed", flow_run_id=run_id, reason=reason)
                return sorted(row["batch_id"] for row in rows)
            await fetch(self.owner.session, "hold_stopped", batch_id=run.batch_id, reason=reason)
            return [run.batch_id]
        return []

    async def _hold_if_cancelled(self, run_id: UUID, run: _Run, reason: str | None) -> None:
        """Hold the batches of a run that ends by a signal, if that is because it was cancelled."""
        if reason is None:
            asking = asyncio.ensure_future(reasons_in_prefect(self.client, [run_id]))
            done, _ = await asyncio.wait([asking], timeout=_ASK_WITHIN)
            asking.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
            reason = asking.result().get(run_id) if done and not asking.exception() else None
        if reason:
            held = await self._hold(run_id, run, reason)
            self.log.warning("Stopped: %s. %s", reason, how_to_continue(held, has_retry()))


@asynccontextmanager
async def stops(owner: Owner, log: Log) -> AsyncIterator[Stops]:
    """Yield what stops the runs of this process: that of the parent run, or a new one for the body."""
    if current := _current.get():
        yield current
        return
    async with get_client() as client:
        new = Stops(owner, client, log)
        token = _current.set(new)
        watcher = asyncio.create_task(new.watch())
        try:
            yield new
        finally:
            _current.reset(token)
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)


async def read_runs(client: PrefectClient, run_ids: list[UUID]) -> dict[UUID, FlowRun]:
    """Return those of these flow runs that exist. Raises httpx errors."""
    found = {}
    for start in range(0, len(run_ids), _PAGE):
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=run_ids[start : start + _PAGE]))
        # A request that is cancelled while it is under way would cost httpx a connection permanently.
        request = asyncio.ensure_future(client.read_flow_runs(flow_run_filter=wanted, limit=_PAGE))
        request.add_done_callback(lambda done: done.cancelled() or done.exception())
        found.update({run.id: run for run in await asyncio.shield(request)})
    return found


async def reasons_in_prefect(client: PrefectClient, run_ids: list[UUID]) -> dict[UUID, str]:
    """Return why runs are to stop, for those that are cancelled or deleted. Raises httpx errors."""
    found = await read_runs(client, run_ids)
    reasons = {run_id: DELETED for run_id in run_ids if run_id not in found}
    stopped = (StateType.CANCELLING, StateType.CANCELLED)
    return reasons | {run.id: CANCELLED for run in found.values() if run.state_type in stopped}


def interrupt(task: asyncio.Task[Any]) -> None:
    """Stop the run that ``task`` executes, after Ctrl-C in its terminal."""
    if not _interrupted:
        _interrupted.append(task)
        task.cancel(StopReason(INTERRUPTED))


def has_retry() -> bool:
    """Return whether the Prefect UI offers *Retry* for the flow run at work: only to runs of deployments."""
    context = FlowRunContext.get()
    return bool(context and context.flow_run and context.flow_run.deployment_id)


def how_to_continue(held: Iterable[str], retry: bool) -> str:
    """Return which batches are held, and what continues them; ``retry``: the run can be retried."""
    ids = list(held)
    if not ids:
        return "It leaves no unfinished batches."
    them = "it" if len(ids) == 1 else "them"
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    named, few = ", ".join(ids[:_NAMED]), "BATCH…" if more else " ".join(ids)
    at_once = f"Retry of this run continues {them} at once, " if retry else ""
    return (
        f"Held: {named}{more}. The next run continues {them} after `tdp resume {few}`; {at_once}"
        f"`tdp backfill {few}` processes {them} again."
    )


def ensure_not_held(batch_id: str, reason: str | None) -> None:
    """Raise BatchHeld if there is a ``reason`` why the batch is held."""
    if reason:
        raise BatchHeld(f"{batch_id} is held: {reason}. {how_to_continue([batch_id], has_retry())}")


def stopped_by(error: BaseException) -> BaseException | None:
    """Return the error that ends the whole run, if ``error`` is or was caused by one; None if it concerns one
    batch.

    Prefect raises on SIGTERM wherever the process is just then, and Ctrl-C cancels. In the start of a task
    its engine raises another error over either, and a stopped run would go on to its end.
    """
    if not isinstance(error, Exception):
        return error
    task = asyncio.current_task()
    # A timeout and a lost gate also cancel the task, but have undone the cancellation.
    cancelled = (asyncio.CancelledError,) if task and task.cancelling() else ()
    cause: BaseException | None = error
    while cause and not isinstance(cause, (TerminationSignal, *cancelled)):
        cause = cause.__cause__ or cause.__context__
    return cause
