"""Fan out: the batches of one parent run, a bounded window of them at a time, here or on the work pool.

``process`` calls the subflow in the parent's own process: nothing to start, one host. ``work-pool`` starts a
run of the deployment process-batch/adhoc for each batch, which any worker on any host takes; the start of its
process takes seconds, so the window has to be larger than the lanes alone require. The ledger is the same in
both cases: it has the outcome of each batch, and completed work is not repeated.

On the work pool, a child whose process or host died is Crashed (by its worker, or by
:mod:`flows.operations.recovery` once no process owns its batch) and is started again. The children of a
cancelled parent are cancelled, and all its unfinished batches are held (:mod:`flows.batches.stopping`). The
children of a killed parent finish what they have begun; the next run of the inbox claims the other batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import arun_deployment
from prefect.exceptions import Abort, MissingResult, ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelled, Cancelling

from flows.batches.runtime import Runtime
from flows.batches.stopping import CANCELLED, Stops, ensure_not_held, read_runs, stopped_by
from flows.domain import BATCH_DEPLOYMENT, FanOut, Log
from flows.errors import BatchBusy, BatchesFailed, BatchFailed, BatchHeld, DeploymentMissing
from flows.gate.process_lanes import lanes
from flows.ledger.owner import Owner, owner
from flows.process_batch import process_batch

#: Processes the batch of that id and returns its report.
Run = Callable[[str], Awaitable[dict[str, Any]]]

#: Seconds between two checks of the children; one request for all of them.
_LOOK_EVERY = 1.0
#: Seconds between the starts of two of the window's workers, and the head start of the first. If all started
#: at once, the requests of each would wait for those of the others, and the first batch would reach extract
#: last.
_LANES_APART, _FIRST_AHEAD = 0.05, 0.15
#: Most checks of a cancelled or deleted child until its process has ended.
_LOOKS_AT_ITS_END = 20


@dataclass
class Outcomes:
    """The outcomes of the batches of one run: their ids, and the errors of the failed ones."""

    completed: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of batches that have ended."""
        return len(self.completed) + len(self.busy) + len(self.held) + len(self.failed)


async def run_all(batches: list[str], window: int, log: Log, run: Run) -> Outcomes:
    """``run`` the batches, ``window`` of them at a time, started in the list's order."""
    outcomes = Outcomes()
    waiting = iter(batches)

    async def lane(number: int) -> None:
        if number:
            await asyncio.sleep(_FIRST_AHEAD + number * _LANES_APART)
        for batch_id in waiting:
            await _process(batch_id, outcomes, run)
            log.info("%d of %d batches done  failed=%d", outcomes.count, len(batches), len(outcomes.failed))

    # Lanes end by themselves or because the run is cancelled. A TaskGroup would cancel them once more while
    # they clean up, and wrap what Prefect must see to call the run Cancelled and not Crashed.
    await asyncio.gather(*(lane(number) for number in range(min(window, len(batches)))))
    return outcomes


async def _process(batch_id: str, outcomes: Outcomes, run: Run) -> None:
    try:
        batch_report = await run(batch_id)
        # Prefect takes the n-th child of a retried run for the n-th of the run before it.
        if batch_report["batch_id"] != batch_id:
            raise BatchesFailed(
                f"Prefect handed over the result of {batch_report['batch_id']}; retry the run"
            )
        outcomes.completed.append(batch_id)
    except BatchBusy:
        outcomes.busy.append(batch_id)
    except BatchHeld:
        outcomes.held.append(batch_id)
    except Exception as error:
        if stop := stopped_by(error):
            raise stop from None
        outcomes.failed[batch_id] = f"{type(error).__name__}: {error}"


@asynccontextmanager
async def runner(how: FanOut | None, runtime: Runtime, stopping: Stops, log: Log) -> AsyncIterator[Run]:
    """Yield what runs one batch of this parent run; ``how`` None is what the TDP pipeline block says."""
    if (how or runtime.config.fan_out) == "process":
        async with (
            owner(runtime.database_url, "tdp run") as owning,
            lanes(owning, runtime.settings.work_locks, is_yielding=runtime.yielding),
        ):
            yield partial(_run_here, owning, stopping)
        return
    async with get_client() as client:
        pool = _WorkPool(client, runtime, log)
        watcher = asyncio.create_task(pool.watch())
        try:
            yield pool.run
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
            if stopping.reason:
                await pool.cancel()


async def _run_here(owning: Owner, stopping: Stops, batch_id: str) -> dict[str, Any]:
    # Whatever a subflow returns as its result, Prefect remembers until the parent ends: 10 kB a batch.
    try:
        state = await process_batch(batch_id, return_state=True)
    except Abort as deleted:
        state = Cancelled(message=str(deleted))
    if state.is_cancelled():
        stopping.ensure_wanted()
        raise BatchHeld(state.message)
    try:
        report: dict[str, Any] = await state.aresult()
        return report
    except MissingResult:  # a response was lost, and in the next one Prefect's server has only the state
        if report := await _completed(owning, batch_id):
            return report
        raise


async def _completed(owning: Owner, batch_id: str) -> dict[str, Any]:
    """Return the report of the batch; empty if it is not completed."""
    (report,) = await owning.fetch("batch_report", batch_id=batch_id)
    return dict(report) if report["status"] == "COMPLETED" else {}


class _WorkPool:
    """The children of this run on the work pool."""

    def __init__(self, client: PrefectClient, runtime: Runtime, log: Log) -> None:
        self._client, self._runtime, self._log = client, runtime, log
        # A retry of this run must not get the children of the earlier attempt.
        self._key = f"{flow_run.get_id()}-{flow_run.get_run_count()}"
        self._open: dict[UUID, asyncio.Future[FlowRun | None]] = {}

    async def run(self, batch_id: str) -> dict[str, Any]:
        """Return the batch's report. Raises BatchBusy, BatchHeld, BatchFailed or DeploymentMissing."""
        if report := await self._report(batch_id):
            return report
        for attempt in range(1 + self._runtime.config.task_retries):
            child = await self._ended(await self._start(batch_id, f"{self._key}-{batch_id}-{attempt}"))
            if child is None or (child.state and child.state.is_cancelled()):
                await self._hold(batch_id)
            if report := await self._report(batch_id, child):
                return report
            self._log.warning("The run %s of %s crashed", child.name if child else "", batch_id)
        raise BatchFailed(f"its runs on the work pool crashed, the last one so: {_message(child)}")

    async def watch(self) -> None:
        """Set the results of the children that have ended or were deleted. Never returns."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            waiting = list(self._open)
            try:
                found = await read_runs(self._client, waiting)
            except Exception as error:  # the server comes back; without this loop all waits are endless
                self._log.warning("The states of the children are unknown, trying again: %r", error)
                continue
            for run_id in waiting:
                child = found.get(run_id)
                if child is None or (child.state and child.state.is_final()):
                    self._open.pop(run_id).set_result(child)

    async def cancel(self) -> None:
        """Cancel the children that have not ended; Prefect does so only for a parent that is Cancelled."""
        for run_id in self._open:
            with suppress(httpx.HTTPError, ObjectNotFound):
                await self._client.set_flow_run_state(run_id, Cancelling())

    async def _start(self, batch_id: str, key: str) -> FlowRun:
        """Start a child; wait for the server if it is unavailable."""
        parameters = {"batch_id": batch_id, "yielding": self._runtime.yielding}
        while True:
            try:
                return await arun_deployment(
                    BATCH_DEPLOYMENT,
                    client=self._client,
                    parameters=parameters,
                    flow_run_name=batch_id,
                    timeout=0,
                    idempotency_key=key,
                    as_subflow=True,
                )
            except ObjectNotFound:
                raise DeploymentMissing(f"{BATCH_DEPLOYMENT} is not on the server: run `tdp apply`") from None
            except httpx.HTTPError as error:
                if isinstance(error, httpx.HTTPStatusError) and not error.response.is_server_error:
                    raise
                self._log.warning("The Prefect server does not respond, waiting for it: %r", error)
            await asyncio.sleep(_LOOK_EVERY)

    async def _ended(self, child: FlowRun) -> FlowRun | None:
        """Return the child once it has ended; None if it was deleted."""
        self._open[child.id] = asyncio.get_running_loop().create_future()
        return await self._open[child.id]

    async def _report(self, batch_id: str, child: FlowRun | None = None) -> dict[str, Any] | None:
        """Return the report of a completed batch; None if a child has to be started for it.

        Raises BatchHeld, BatchBusy, or BatchFailed if ``child`` has ended and another one would not help.
        """
        async with owner(self._runtime.database_url, f"tdp look {batch_id}") as owning:
            if report := await _completed(owning, batch_id):
                return report
            (batch,) = await owning.fetch("batch_outcome", batch_id=batch_id)
        ensure_not_held(batch_id, batch["held_because"])
        if child is None:
            return None
        if batch["owned"]:
            raise BatchBusy(f"another run is working on {batch_id}")
        if child.state is None or not child.state.is_crashed():
            raise BatchFailed(batch["error_message"] or _message(child))
        return None

    async def _hold(self, batch_id: str) -> None:
        """Hold the batch of a child that was cancelled or deleted, once its process has released it."""
        async with owner(self._runtime.database_url, f"tdp look {batch_id}") as owning:
            for _ in range(_LOOKS_AT_ITS_END):
                if not (await owning.fetch("batch_outcome", batch_id=batch_id))[0]["owned"]:
                    break
                await asyncio.sleep(_LOOK_EVERY)
            await owning.fetch("hold_batches", batch_ids=[batch_id], reason=CANCELLED)


def _message(child: FlowRun | None) -> str:
    return f"{child.state_name}: {child.state.message if child.state else ''}" if child else "deleted"
