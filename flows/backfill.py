"""The backfill flow: run batches again from a given stage on, yielding to scheduled work."""

from __future__ import annotations

import asyncio
from datetime import date
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.runtime import flow_run
from psycopg.rows import DictRow
from pydantic import PositiveInt

from flows.batches.backfill_plan import ensure_readable, plan_backfill, plan_markdown
from flows.batches.conclusion import conclude
from flows.batches.decoration import decorate
from flows.batches.fan_out import Outcomes, Run, run_all, runner
from flows.batches.run_name import first_name, name_run
from flows.batches.runtime import Runtime, yielding_runtime
from flows.batches.stopping import Stopped, ensure_not_held, stops
from flows.batches.workdir import discard_outputs, kept_stages
from flows.domain import BACKFILL, BatchStatus, FanOut, Log, Stage
from flows.errors import BatchesFailed, NothingChosen
from flows.ledger.batches import own_batch
from flows.ledger.owner import Owner, own_run
from flows.ledger.selection import (
    Filters,
    adopt_batches,
    list_batches,
    listed_batches,
    requeue_prepared,
    select_batches,
)
from flows.ledger.session import Session, fetch
from flows.reports import summary, summary_markdown
from flows.reports.prefect_api import slots


@flow(name=BACKFILL, flow_run_name=first_name, persist_result=False)
async def backfill(
    batch_ids: list[str] | None = None,
    status: BatchStatus | None = None,
    received_from: date | None = None,
    received_to: date | None = None,
    processed_from: date | None = None,
    processed_to: date | None = None,
    source: str | None = None,
    error: str | None = None,
    from_stage: Stage = "extract",
    window: PositiveInt | None = None,
    dry_run: bool = False,
    resume: UUID | None = None,
    fan_out: FanOut | None = None,
) -> dict[str, int]:
    """Run the batches that match every filter again from ``from_stage``; a filter or ``resume`` is required.

    Args:
        batch_ids: Ids of batches; empty means batches of any id.
        status: Status that a batch must have; empty means any.
        received_from: First day (UTC) on which a source file of the batch was received; empty means no limit.
        received_to: Last day (UTC) on which a source file of the batch was received; empty means no limit.
        processed_from: First day (UTC) on which the batch completed or failed; empty means no limit.
        processed_to: Last day (UTC) on which the batch completed or failed; empty means no limit.
        source: SHA-256 or name pattern (* and ?) of a source file of the batch; empty means any.
        error: Text in the error of the batch or of one of its files; empty means any.
        from_stage: First stage to run again; by default extract, so all three stages run.
        window: Batches in flight at the same time; empty means the value of the TDP pipeline block.
        dry_run: Only report what would run and how long it should take; off by default.
        resume: Flow run id of an interrupted backfill, whose remaining batches run; empty means a new one.
        fan_out: Where batches run: process or work-pool; empty means the value of the TDP pipeline block.
    """
    filters = Filters(
        batch_ids, status, received_from, received_to, processed_from, processed_to, source, error
    )
    async with yielding_runtime() as runtime, own_run(UUID(flow_run.get_id()), runtime.database_url) as owner:
        if dry_run:
            return await _report_plan(owner.session, filters, from_stage, runtime)
        return await _backfill(owner, filters, from_stage, window, resume, fan_out, runtime)


async def _backfill(
    owner: Owner,
    filters: Filters,
    from_stage: Stage,
    window: int | None,
    resume: UUID | None,
    fan_out: FanOut | None,
    runtime: Runtime,
) -> dict[str, int]:
    """Run the batches again; a retry continues where the run before it stopped.

    Raises NothingChosen if no batch matches, BatchUnknown if an id is not in the ledger, and BatchesFailed
    after the last batch if some failed or could not be run again, or if other runs process all of them.
    """
    log = get_run_logger()
    run_id = UUID(flow_run.get_id())
    async with stops(owner, log) as stopping:
        try:
            async with stopping.stoppable(run_id):
                listed = await _plan(owner.session, run_id, filters, from_stage, resume, runtime, log)
                batches = [row["batch_id"] for row in listed]
                await decorate(name_run(run_id, "backfill", batches, runtime), "the name of this run", log)
                async with runner(fan_out, runtime, stopping, log) as run:
                    size = window or runtime.config.window
                    outcomes = await _run_all(listed, run_id, size, runtime, log, run)
                await decorate(_report(run_id, runtime), "this backfill", log)
                if outcomes.count == len(outcomes.busy):
                    raise BatchesFailed(f"nothing was done: other runs process {', '.join(outcomes.busy)}")
                skipped = sorted({*(filters.batch_ids or [])} - set(batches))
                end: dict[str, int] = await conclude(owner, batches, outcomes, log, skipped)
        except Stopped as stop:
            end = stop.state(log)
    return end


async def _plan(
    session: Session,
    run_id: UUID,
    filters: Filters,
    from_stage: str,
    resume: UUID | None,
    runtime: Runtime,
    log: Log,
) -> list[DictRow]:
    """Return the run's list of batches: the existing one if the run is retried, otherwise a new one."""
    if listed := await listed_batches(session, run_id):
        await fetch(session, "resume_listed", flow_run_id=run_id)
        await fetch(session, "requeue_failed", flow_run_id=run_id)
        log.info("Continuing with the same %d batches", len(listed))
        return listed
    if resume:
        await adopt_batches(session, run_id, resume, runtime.database_url)
    else:
        await list_batches(session, run_id, filters, from_stage)
    listed = await listed_batches(session, run_id)
    if not listed:
        raise NothingChosen(f"nothing is left of backfill {resume}, or it has no list of batches")
    log.info("%d batches to run again", len(listed))
    return listed


async def _run_all(
    listed: list[DictRow], run_id: UUID, window: int, runtime: Runtime, log: Log, run: Run
) -> Outcomes:
    to_prepare = {row["batch_id"]: row["from_stage"] for row in listed if row["prepared_at"] is None}

    async def prepare_and_run(batch_id: str) -> dict[str, Any]:
        if batch_id in to_prepare:
            await prepare(batch_id, to_prepare[batch_id], run_id, runtime)
        return await run(batch_id)

    return await run_all([row["batch_id"] for row in listed], window, log, prepare_and_run)


async def prepare(batch_id: str, from_stage: str, run_id: UUID, runtime: Runtime) -> None:
    """Discard the batch's outputs from ``from_stage`` on and re-queue it for that stage, once per run.

    Raises BatchBusy, BatchHeld, or SourceMissing if its source files must be read again and are not
    available. Then the batch is unchanged.
    """
    folder = runtime.settings.work / batch_id
    async with own_batch(batch_id, runtime.database_url) as batch:
        ensure_not_held(batch_id, await batch.held_because())
        kept = await asyncio.to_thread(kept_stages, folder, from_stage)
        async with batch.owner.alone() as session:
            if not kept:
                await ensure_readable(session, batch_id)
            await asyncio.to_thread(discard_outputs, folder, kept)
            await requeue_prepared(session, run_id, batch_id, kept)


async def _report_plan(
    session: Session, filters: Filters, from_stage: str, runtime: Runtime
) -> dict[str, int]:
    """Report what would run, also if no batch matches. Raises NothingChosen only without a filter."""
    chosen = await select_batches(session, filters, may_be_empty=True)
    limits = {name: slot.limit for name, slot in (await asyncio.to_thread(slots, runtime.settings)).items()}
    plan = await plan_backfill(session, chosen, from_stage, runtime.settings.work, limits)
    await acreate_markdown_artifact(
        plan_markdown(plan), key="backfill-plan", description="What a backfill would do"
    )
    refused = sum(batch.refused is not None for batch in plan.batches)
    return {"batches": len(plan.batches), "refused": refused, "seconds": round(plan.seconds)}


async def _report(run_id: UUID, runtime: Runtime) -> None:
    done = await runtime.query(lambda connection: summary(connection, run_id))
    await acreate_markdown_artifact(
        summary_markdown(done), key="backfill-summary", description="What this backfill did"
    )
