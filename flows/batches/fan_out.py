"""Fan out: the batches of one parent run, a bounded window of them at a time, here or on the work pool.

``process`` calls the subflow in the parent's own process: nothing to start, one host. ``work-pool`` starts a
run of the deployment process-batch/adhoc for each batch, which any worker on any host takes; the start of its
process takes seconds, so the window has to be larger than the lanes alone ask for. Which of the two makes no
difference to the ledger: it says what became of a batch, and what is done is never done again.

On the work pool, a child whose process or host died is Crashed (by its worker, or by
:mod:`flows.operations.recovery` once nobody holds its batch) and is started again. A cancelled parent takes
its children with it: Prefect cancels them within half a minute, and their batches wait for the next run. A
killed parent does not: what its children have begun they finish, and what they have not is claimed by the
next run of the inbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run

from flows.batches.runtime import Runtime
from flows.domain import BATCH_DEPLOYMENT, FanOut, Log
from flows.errors import BatchBusy, BatchesFailed, BatchFailed, DeploymentMissing
from flows.gate.lanes import lanes
from flows.ledger.owner import owner
from flows.process_batch import process_batch, stopped_by

#: Processes the batch of that id and returns its report.
Run = Callable[[str], Awaitable[dict[str, Any]]]

#: Seconds between two looks at the children; one request for all of them.
_LOOK_EVERY = 1.0
#: Seconds between the starts of two lanes, and what the first is ahead of the others. All at once, the
#: requests of each would wait for those of all the others, and the first batch would reach extract last; so
#: it is there at once, and the list's order is kept.
_LANES_APART, _FIRST_AHEAD = 0.05, 0.15
_ENDED = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(TERMINAL_STATES)))


@dataclass
class Outcomes:
    """What became of the batches of one run: their ids, and of the failed ones the errors."""

    completed: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


async def run_all(batches: list[str], window: int, log: Log, run: Run) -> Outcomes:
    """``run`` the batches, ``window`` of them at a time, started in the list's order."""
    outcomes = Outcomes()
    waiting = iter(batches)

    async def lane(number: int) -> None:
        if number:
            await asyncio.sleep(_FIRST_AHEAD + number * _LANES_APART)
        for batch_id in waiting:
            await _process(batch_id, outcomes, run)
            done = len(outcomes.completed) + len(outcomes.busy) + len(outcomes.failed)
            log.info("%d of %d batches done  failed=%d", done, len(batches), len(outcomes.failed))

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
    except Exception as error:
        if stop := stopped_by(error):
            raise stop from None
        outcomes.failed[batch_id] = f"{type(error).__name__}: {error}"


@asynccontextmanager
async def runner(how: FanOut | None, runtime: Runtime, log: Log) -> AsyncIterator[Run]:
    """Yield what runs one batch of this parent run; ``how`` None is what the TDP pipeline block says."""
    if (how or runtime.config.fan_out) == "process":
        async with (
            owner(runtime.database_url, "tdp run") as owning,
            lanes(owning, runtime.settings.work_locks, is_yielding=runtime.yielding),
        ):
            yield _run_here
        return
    async with get_client() as client:
        pool = _WorkPool(client, runtime, log)
        watcher = asyncio.create_task(pool.watch())
        try:
            yield pool.run
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)


async def _run_here(batch_id: str) -> dict[str, Any]:
    # Whatever a subflow returns as its result, Prefect remembers until the parent ends: 10 kB a batch.
    state = await process_batch(batch_id, return_state=True)
    report: dict[str, Any] = await state.aresult()
    return report


class _WorkPool:
    """The children of this run on the work pool."""

    def __init__(self, client: PrefectClient, runtime: Runtime, log: Log) -> None:
        self._client, self._runtime, self._log = client, runtime, log
        # A retry of this run must not be given the children of the time before.
        self._key = f"{flow_run.get_id()}-{flow_run.get_run_count()}"
        self._open: dict[UUID, asyncio.Future[FlowRun]] = {}

    async def run(self, batch_id: str) -> dict[str, Any]:
        """Return the batch's report. Raises BatchBusy, BatchFailed or DeploymentMissing."""
        if report := await self._report(batch_id):
            return report
        for attempt in range(1 + self._runtime.config.task_retries):
            child = await self._ended(await self._start(batch_id, f"{self._key}-{batch_id}-{attempt}"))
            if report := await self._report(batch_id, child):
                return report
            self._log.warning("The run %s of %s crashed", child.name, batch_id)
        raise BatchFailed(f"its runs on the work pool crashed, the last one so: {_message(child)}")

    async def watch(self) -> None:
        """Tell those who wait for a child when it has ended; return never."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            if not self._open:
                continue
            ids = FlowRunFilterId(any_=list(self._open))
            try:
                ended = await self._client.read_flow_runs(flow_run_filter=FlowRunFilter(id=ids, state=_ENDED))
            except (
                Exception
            ) as error:  # whatever is away comes back; without this look all would wait for ever
                self._log.warning("No news of the work pool, looking again: %r", error)
                continue
            for child in ended:
                self._open.pop(child.id).set_result(child)

    async def _start(self, batch_id: str, key: str) -> FlowRun:
        """Start a child; a server that is away is waited for."""
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
                self._log.warning("The Prefect server does not answer, waiting for it: %r", error)
            await asyncio.sleep(_LOOK_EVERY)

    async def _ended(self, child: FlowRun) -> FlowRun:
        self._open[child.id] = asyncio.get_running_loop().create_future()
        return await self._open[child.id]

    async def _report(self, batch_id: str, child: FlowRun | None = None) -> dict[str, Any] | None:
        """Return the report of a completed batch; None if it has to be run, be it for the first time.

        Raises BatchBusy or BatchFailed if ``child`` has ended and that is not for us to mend.
        """
        async with owner(self._runtime.database_url, f"tdp look {batch_id}") as owning:
            (batch,) = await owning.fetch("batch_outcome", batch_id=batch_id)
            if batch["status"] == "COMPLETED":
                return dict(*await owning.fetch("batch_report", batch_id=batch_id))
        if child is None:
            return None
        if batch["owned"]:
            raise BatchBusy(f"another run is working on {batch_id}")
        if child.state is None or not child.state.is_crashed():
            raise BatchFailed(batch["error_message"] or _message(child))
        return None


def _message(child: FlowRun) -> str:
    return f"{child.state_name}: {child.state.message if child.state else ''}"
