"""The parent flow: claim new source files, process their batches, report."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_image_artifact, acreate_markdown_artifact
from prefect.runtime import flow_run

from flows.batches.decoration import decorate
from flows.batches.fan_out import run_all, runner
from flows.batches.inbox import receive, settled_files
from flows.batches.run_name import name_run
from flows.batches.runtime import Runtime, current_runtime
from flows.domain import PROCESS_INBOX, FanOut, Log
from flows.errors import BatchesFailed
from flows.ledger.intake import freeze_batches, frozen_batches, planning
from flows.ledger.owner import own_run
from flows.ledger.session import Session
from flows.reports import summary, summary_markdown


@flow(name=PROCESS_INBOX, persist_result=False)
async def process_inbox(
    inbox: str | None = None,
    batch_size: int | None = None,
    window: int | None = None,
    fan_out: FanOut | None = None,
) -> dict[str, int]:
    """Claim the source files in the inbox, process them in batches, and report.

    A batch that fails does not stop the others; BatchesFailed is raised after the last one. A retry of the
    run processes those of its batches that are not completed.

    Args:
        inbox: Directory to read source files from; empty means the inbox of this installation.
        batch_size: Source files per batch; empty means the value of the TDP pipeline block.
        window: Batches in flight at the same time; empty means the value of the TDP pipeline block.
        fan_out: Where batches run, in this run's process or each as its own run on the work pool; empty
            means the value of the TDP pipeline block.
    """
    runtime = await current_runtime()
    log = get_run_logger()
    run_id = UUID(flow_run.get_id())
    async with own_run(run_id, runtime.database_url) as owner:
        folder = Path(inbox) if inbox else runtime.settings.inbox
        size = batch_size or runtime.config.batch_size
        batches = await plan(owner.session, run_id, folder, size, runtime, log)
        await decorate(name_run(run_id, folder.name, batches, runtime), "the name of this run", log)
        async with runner(fan_out, runtime, log) as run:
            outcomes = await run_all(batches, window or runtime.config.window, log, run)
        if batches:
            await decorate(report(run_id, runtime), "this run", log)
    if outcomes.failed:
        named = "; ".join(f"{batch_id} ({error})" for batch_id, error in outcomes.failed.items())
        raise BatchesFailed(f"{len(outcomes.failed)} of {len(batches)} batches failed: {named}")
    return {"batches": len(batches), "completed": len(outcomes.completed), "busy": len(outcomes.busy)}


async def plan(
    session: Session, run_id: UUID, inbox: Path, batch_size: int, runtime: Runtime, log: Log
) -> list[str]:
    """Return the run's batches in order: the frozen list if the run is retried, otherwise a new list."""
    if batches := await frozen_batches(session, run_id):
        log.info("Retrying the same %d batches in the same order", len(batches))
        return batches
    async with planning(session):
        inbox.mkdir(parents=True, exist_ok=True)
        arrivals = {"new": 0, "duplicate": 0}
        for path in await settled_files(inbox, runtime.config.settle_seconds):
            try:
                arrival = await receive(session, path, runtime.settings.sources)
            except OSError as error:
                log.error("Not received, still in the inbox: %s", error)
                continue
            if arrival:
                arrivals[arrival] += 1
        batches = await freeze_batches(session, run_id, batch_size)
    log.info("Received %(new)d new files and %(duplicate)d duplicates", arrivals)
    log.info("%d batches to process", len(batches))
    return batches


async def report(run_id: UUID, runtime: Runtime) -> None:
    """Create the run's artifacts: its summary, and the timeline of its lanes, which the monitor serves."""
    done = await runtime.query(lambda connection: summary(connection, run_id))
    await asyncio.gather(
        acreate_markdown_artifact(
            summary_markdown(done), key="process-inbox-summary", description="What this run did"
        ),
        acreate_image_artifact(
            f"http://127.0.0.1:{runtime.settings.monitor_port}/timeline.svg?run={run_id}",
            key="process-inbox-timeline",
            description="When each stage run waited and worked; served by the monitor",
        ),
    )
