"""The subflow of one batch: extract, convert, store. Run again, it resumes at the first stage not done."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from functools import cache
from typing import Any, cast
from uuid import UUID

from prefect import Task, flow, get_run_logger, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext
from prefect.runtime import flow_run, task_run
from prefect.states import Cancelled
from prefect.tasks import exponential_backoff

from flows.batches.decoration import decorate
from flows.batches.notification import notify
from flows.batches.runtime import Runtime, current_runtime, yielding_runtime
from flows.batches.stage_run import run_stage
from flows.batches.stopping import Stopped, ensure_not_held, stopped_by, stops
from flows.domain import PROCESS_BATCH, STAGES
from flows.errors import BatchBusy, BatchHeld, Retryable
from flows.ledger.batches import OwnedBatch, own_batch
from flows.reports import timings_markdown
from flows.stages.runner.contract import read_result


async def _is_retryable(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    # An OSError here is caused by the machine: a full disk, an unavailable network share.
    return isinstance(await state.aresult(raise_on_failure=False), Retryable | OSError)


async def _run(stage: str, batch: OwnedBatch, runtime: Runtime) -> None:
    log = get_run_logger()
    await run_stage(stage, batch, runtime, log, UUID(flow_run.get_id()), UUID(task_run.get_id()))


_OPTIONS: dict[str, Any] = {
    "cache_policy": NO_CACHE,  # the ledger decides what is done
    "persist_result": False,
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _is_retryable,
}
#: Of 2, 4, 8, … seconds. To be given together with the number of retries: Prefect counts the delays then.
_BACKOFF = exponential_backoff(backoff_factor=2)


@task(name="extract", task_run_name="extract-{batch.batch_id}", **_OPTIONS)
async def extract(batch: OwnedBatch, runtime: Runtime) -> None:
    """Unpack what convert needs of every source file of the batch."""
    await _run("extract", batch, runtime)


@task(name="convert", task_run_name="convert-{batch.batch_id}", **_OPTIONS)
async def convert(batch: OwnedBatch, runtime: Runtime) -> None:
    """Read the exports of the batch into rows."""
    await _run("convert", batch, runtime)


@task(name="store", task_run_name="store-{batch.batch_id}", **_OPTIONS)
async def store(batch: OwnedBatch, runtime: Runtime) -> None:
    """Load the rows of the batch into PostgreSQL."""
    await _run("store", batch, runtime)


@cache  # a copy of a task costs Prefect a millisecond: it reads its source code again
def _with_retries(run: Task[[OwnedBatch, Runtime], Any], retries: int) -> Task[[OwnedBatch, Runtime], Any]:
    return run.with_options(retries=retries, retry_delay_seconds=_BACKOFF)


# The server validates what operators give; for each batch of a parent run it would cost 4 ms here.
@flow(
    name=PROCESS_BATCH,
    flow_run_name="{batch_id}",
    persist_result=False,
    log_prints=False,
    validate_parameters=False,
)
async def process_batch(batch_id: str, yielding: bool = False) -> dict[str, Any]:
    """Extract, convert and store one batch, resuming where an earlier run of it ended.

    Returns its report: batch_id, status, file_count, stored, partial, quarantined, messages. A batch that
    another live run processes is left to that run. A run that is cancelled ends as Cancelled and holds its
    batch.

    Args:
        batch_id: Id of the batch, such as batch_000042.
        yielding: Whether the stage runs of others go first, as in a backfill; off by default.
    """
    log = get_run_logger()
    async with (
        yielding_runtime() if yielding else nullcontext(await current_runtime()) as runtime,
        own_batch(batch_id, runtime.database_url) as batch,
        stops(batch.owner, log) as stopping,
    ):
        try:
            async with stopping.stoppable(UUID(flow_run.get_id()), batch_id):
                if batch.status != "COMPLETED":
                    await _ensure_wanted(batch)
                    await _finish(batch, runtime)
                report = dict(await batch.report())
        except BatchHeld as held:  # since its parent listed it
            log.warning("%s", held)
            return cast("dict[str, Any]", Cancelled(message=f"Stopped: {held}"))  # as Stopped does
        except Stopped as stop:
            return cast("dict[str, Any]", stop.state(log))
    log.info("%s", "  ".join(f"{key}={value}" for key, value in report.items()))
    return report


async def _ensure_wanted(batch: OwnedBatch) -> None:
    """Resume a held batch for which an operator started this run, and re-queue a failed one.

    Raises BatchHeld in a run of a parent.

    The parent has resumed the batches of its list when it started, so a hold is newer.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run and run.parent_task_run_id and (not run.deployment_id or run.run_count <= 1):
        ensure_not_held(batch.batch_id, await batch.held_because())
    else:
        await batch.resume()
    if batch.status == "FAILED":
        await batch.requeue()


async def _finish(batch: OwnedBatch, runtime: Runtime) -> None:
    try:
        for stage, run in zip(STAGES, (extract, convert, store), strict=True):
            done = read_result(runtime.directory(batch.batch_id, stage))
            if done and await batch.has_completed(stage):
                await batch.record(stage, done)  # the run that completed it may have died before
            else:
                ensure_not_held(batch.batch_id, await batch.held_because())
                await _with_retries(run, runtime.config.task_retries)(batch, runtime)
        await batch.complete()
    except (BatchBusy, BatchHeld):
        raise
    except BaseException as error:
        stop = stopped_by(error)
        if stop is None:
            await batch.fail(f"{type(error).__name__}: {error}", UUID(flow_run.get_id()))
            await _publish(batch, runtime)
            raise
        # Any other run may claim it now.
        await asyncio.shield(asyncio.ensure_future(batch.requeue()))
        raise stop from None
    else:
        await _publish(batch, runtime)


async def _publish(batch: OwnedBatch, runtime: Runtime) -> None:
    """Notify operators, and show the timings in Prefect unless the summary and timeline of a parent do."""
    context = FlowRunContext.get()
    if context and context.flow_run and not context.flow_run.parent_task_run_id:
        await _show_timings(batch, runtime)
    log = get_run_logger()
    await decorate(notify(batch, runtime, log), f"the notification of {batch.batch_id}", log)


async def _show_timings(batch: OwnedBatch, runtime: Runtime) -> None:
    async def write() -> None:
        markdown = await runtime.query(lambda connection: timings_markdown(connection, [batch.batch_id]))
        # One key for all batches keeps the page of artifacts short; each version belongs to its run.
        await acreate_markdown_artifact(
            markdown, key="batch-timings", description=f"Timings of {batch.batch_id}"
        )

    await decorate(write(), f"the timings of {batch.batch_id}", get_run_logger())
