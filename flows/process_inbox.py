"""The parent flow: claim new source files, process their batches, report."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_image_artifact, acreate_markdown_artifact
from prefect.runtime import flow_run
from psycopg import Error as PostgresError
from pydantic import PositiveInt

from flows.batches.conclusion import conclude
from flows.batches.decoration import decorate
from flows.batches.fan_out import run_all, runner
from flows.batches.inbox import (
    Look,
    ensure_foreign,
    is_one_export,
    is_unpacked_export,
    look,
    look_at_export,
    passed_over,
)
from flows.batches.kept import release_kept
from flows.batches.kept_elsewhere import release_elsewhere
from flows.batches.receiving import Arrival, Intake, Received, requeue_restored
from flows.batches.run_name import first_name, name_run
from flows.batches.runtime import Runtime, current_runtime
from flows.batches.stopping import Stopped, stopped_by, stops
from flows.domain import PROCESS_INBOX, FanOut, Log
from flows.errors import DatabaseUnavailable
from flows.ledger.intake import freeze_batches, frozen_batches, known_sightings, planning
from flows.ledger.owner import own_run
from flows.ledger.session import Session, fetch
from flows.reports import summary, summary_markdown, text
from flows.stages.runner.completion import to_the_end

#: The message of a run that is stopped while it receives files, about the files not received.
NOT_RECEIVED = (
    "What is still in {} was not received: a Retry of this run, or the next run on it, receives it."
)


@flow(name=PROCESS_INBOX, flow_run_name=first_name, persist_result=False)
async def process_inbox(
    inbox: str | None = None,
    move: bool | None = None,
    batch_size: PositiveInt | None = None,
    window: PositiveInt | None = None,
    fan_out: FanOut | None = None,
) -> dict[str, int]:
    """Claim the source files in the inbox, process them in batches, and report.

    A batch that fails does not stop the others; BatchesFailed is raised after the last one. A retry of the
    run processes those of its batches that are not completed.

    Args:
        inbox: Directory to read source files from; empty means the inbox of this installation.
        move: Whether received files leave the directory; empty means that they leave the inbox of this
            installation and are copied from any other directory.
        batch_size: Source files per batch; empty means the value of the TDP pipeline block.
        window: Batches in flight at the same time; empty means the value of the TDP pipeline block.
        fan_out: Where batches run, in this run's process or each as its own run on the work pool; empty
            means the value of the TDP pipeline block.
    """
    runtime = await current_runtime()
    log = get_run_logger()
    run_id = UUID(flow_run.get_id())
    folder = Path(inbox).absolute() if inbox else runtime.settings.inbox
    received: Received | None = None
    async with own_run(run_id, runtime.database_url) as owner, stops(owner, log) as stopping:
        try:
            async with stopping.stoppable(run_id):
                size = batch_size or runtime.config.batch_size
                batches, received = await plan(owner.session, run_id, folder, size, runtime, log, move=move)
                await decorate(name_run(run_id, folder.name, batches, runtime), "the name of this run", log)
                async with runner(fan_out, runtime, stopping, log) as run:
                    outcomes = await run_all(batches, window or runtime.config.window, log, run)
                if batches:
                    await decorate(report(run_id, runtime), "this run", log)
                end: dict[str, int] = await conclude(owner, batches, outcomes, log, received=received)
        except Stopped as stop:
            end = stop.state(log, "" if received else NOT_RECEIVED.format(folder))
    return end


async def plan(
    session: Session,
    run_id: UUID,
    inbox: Path,
    batch_size: int,
    runtime: Runtime,
    log: Log,
    *,
    move: bool | None = None,
) -> tuple[list[str], Received]:
    """Return the run's batches in order, and what it has received.

    If the run is retried, that is the frozen list, and it receives nothing unless it was stopped before it
    had received all files.
    """
    await fetch(session, "resume_listed", flow_run_id=run_id)
    await fetch(session, "requeue_failed", flow_run_id=run_id)
    if batches := await frozen_batches(session, run_id):
        log.info("Retrying the same %d batches in the same order", len(batches))
        return batches, Received()
    ensure_foreign(inbox, runtime.settings)
    await release_elsewhere(session)
    move = await asyncio.to_thread(_moves, inbox, runtime, log, move)
    own = inbox.samefile(runtime.settings.inbox)
    found = await _look(session, inbox, runtime, own=own)
    if found.busy and own:
        log.info("%d files are still being written; a later run receives them", len(found.busy))
    intake = Intake(
        session,
        runtime.settings.sources,
        log,
        move=move,
        only_exports=runtime.is_built_in("extract"),
        keeps=True,
        only_once=not own,
    )
    batches, received = await _claim(intake, run_id, inbox, found, batch_size, runtime)
    _log_received(received.counts, log)
    log.info("%d batches to process", len(batches))
    return batches, received


async def _claim(
    intake: Intake, run_id: UUID, inbox: Path, found: Look, batch_size: int, runtime: Runtime
) -> tuple[list[str], Received]:
    """Receive what was found; return the run's list of batches, and what it has received.

    If the run is stopped meanwhile, its list has the files received until then. They are held like all
    batches of a stopped run, so the next run does not claim them. A retry of the run receives the other
    files.
    """
    async with planning(intake.session) as began:
        try:
            received = await intake.receive_all(inbox, found)
            await requeue_restored(intake, runtime.settings.work, runtime.database_url)
            return await freeze_batches(intake.session, run_id, batch_size), received
        except BaseException as error:
            if stopped_by(error):
                intake.log.warning(NOT_RECEIVED.format(inbox))
                with suppress(DatabaseUnavailable, PostgresError):
                    await to_the_end(freeze_batches(intake.session, run_id, batch_size, since=began))
            raise


def _log_received(counts: Mapping[Arrival, int], log: Log) -> None:
    new = text.count(counts[Arrival.NEW], "new file", "new files")
    log.info("Received %s and %s", new, text.count(counts[Arrival.DUPLICATE], "duplicate", "duplicates"))
    for arrival in (Arrival.AGAIN, Arrival.KNOWN):
        if counts[arrival]:
            log.info("%d files were %s", counts[arrival], arrival)


async def _look(session: Session, inbox: Path, runtime: Runtime, *, own: bool) -> Look:
    settle, quiet = runtime.config.settle_seconds, runtime.config.quiet_seconds
    if not own and is_unpacked_export(inbox) and is_one_export(inbox):
        return await look_at_export(inbox, settle)
    found = await look(inbox, settle, quiet, partial(known_sightings, session, quiet))
    if not own:  # `tdp status` names those of the inbox
        found.left.update(await asyncio.to_thread(passed_over, inbox))
    return found


def _moves(inbox: Path, runtime: Runtime, log: Log, move: bool | None) -> bool:
    """Return whether received files leave the directory; prepare the inbox of this installation."""
    own = runtime.settings.inbox
    own.mkdir(parents=True, exist_ok=True)
    release_kept(own)
    if inbox.samefile(own):
        return move is not False
    if move and is_unpacked_export(inbox):
        log.warning("%s is an unpacked export: it is copied, not moved", inbox)
        return False
    if move:
        release_kept(inbox)  # of a run that died while it removed one
    return bool(move)


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
