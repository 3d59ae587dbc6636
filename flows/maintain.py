"""The maintenance flow: apply retention, and audit the ledger."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter
from prefect.client.schemas.objects import TERMINAL_STATES
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run

from flows.batches.decoration import report_failure
from flows.batches.receiving import GONE
from flows.batches.runtime import Runtime, current_runtime
from flows.batches.source_file import decodable
from flows.batches.workdir import discard_outputs
from flows.domain import FLOW_NAMES, MAINTAIN, UNWATCHED
from flows.errors import BatchBusy, RulesBroken
from flows.ledger.batches import own_batch
from flows.ledger.connection import connection
from flows.ledger.intake import planning
from flows.ledger.owner import own_run
from flows.ledger.session import Session, fetch
from flows.operations.audit import Check, verify
from flows.operations.schedule import adjust_schedule
from flows.reports import text
from flows.tables.search_index import index

#: Source files purged in one transaction.
_FILES_PER_TRANSACTION = 500
#: Flow runs read in one request, and the most that one run of this flow deletes.
_RUNS_PER_REQUEST, _MAX_RUNS = 200, 10_000
#: Rows of a broken rule that the artifact shows.
_MAX_ROWS_SHOWN = 20


@dataclass
class Removed:
    """The numbers of objects removed, by kind."""

    work_directories: int = 0
    unfinished_outputs: int = 0
    source_files: int = 0
    uploads: int = 0
    flow_runs: int = 0


def _name() -> str:
    return f"maintenance {datetime.now().astimezone():%Y-%m-%d %H:%M}"


@flow(name=MAINTAIN, flow_run_name=_name, persist_result=False)
async def maintain() -> dict[str, int]:
    """Remove what has exceeded its retention time in the TDP pipeline block, index messages, audit.

    Raises RulesBroken if the audit finds a broken rule; the removal is complete by then.
    """
    runtime = await current_runtime()
    config = runtime.config
    async with own_run(UUID(flow_run.get_id()), runtime.database_url) as owner, get_client() as client:
        session = owner.session
        removed = Removed(
            work_directories=await remove_work(session, runtime),
            unfinished_outputs=await remove_unfinished(session, runtime),
            source_files=await purge_sources(session, runtime),
            uploads=await forget_senders(session, config.keep_sources_days),
            flow_runs=await delete_runs(client, timedelta(days=config.keep_runs_days)),
        )
        folder = decodable(str(runtime.settings.inbox))
        await fetch(session, "forget_left", inbox=folder, days=config.keep_runs_days)
        if runtime.settings.look_seconds and await adjust_schedule(client, session):
            get_run_logger().warning(UNWATCHED)
    get_run_logger().info("Indexed for search: %s", (await runtime.query(index))._asdict())
    checks = await asyncio.to_thread(_audit, runtime)
    await acreate_markdown_artifact(
        _markdown(removed, checks),
        key="maintenance",
        description="What was removed, and the results of the audit",
    )
    get_run_logger().info("Removed: %s", asdict(removed))
    if broken := [check for check in checks if not check.is_kept]:
        rules = "; ".join(f"{check.name} ({_finding(check)})" for check in broken)
        message = f"{len(broken)} of {len(checks)} rules are broken: {rules}; `tdp verify` shows the rows"
        report_failure("rule_broken", message)
        raise RulesBroken(message)
    return asdict(removed)


async def remove_work(session: Session, runtime: Runtime) -> int:
    """Remove the work directories of batches whose retention time has passed; return how many."""
    keep = {
        "completed_hours": runtime.config.keep_work_hours,
        "failed_days": runtime.config.keep_failed_work_days,
    }
    present = [folder.name for folder in _folders(runtime.settings.work)]
    removed = 0
    for row in await fetch(session, "work_to_remove", batch_ids=present, **keep):
        batch_id = row["batch_id"]
        with suppress(BatchBusy):
            async with own_batch(batch_id, runtime.database_url):
                # Checked again under the lock: another run may have processed the batch meanwhile.
                if await fetch(session, "work_to_remove", batch_ids=[batch_id], **keep):
                    await asyncio.to_thread(_remove, runtime.settings.work / batch_id)
                    removed += 1
    return removed


async def remove_unfinished(session: Session, runtime: Runtime) -> int:
    """Remove partial files of killed stages and of interrupted copies of source files; return how many."""
    removed = 0
    for folder in _folders(runtime.settings.work):
        if unfinished := list(folder.glob(".*.partial")):
            with suppress(BatchBusy):
                async with own_batch(folder.name, runtime.database_url):
                    for path in unfinished:
                        await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
                        removed += 1
    async with planning(session):  # no run copies source files now
        for path in list(runtime.settings.sources.glob("*/.*.partial")):
            path.unlink(missing_ok=True)
            removed += 1
    return removed


async def purge_sources(session: Session, runtime: Runtime) -> int:
    """Purge the source files of batches whose retention time has passed; return how many.

    A file is removed after the ledger has recorded it as purged, so that a crash can leave a file but not
    lose one.
    """
    purged = 0
    async with planning(session):  # no backfill can list batches now, and no file arrives
        await _unlink(await fetch(session, "recently_purged"))
        while True:
            rows = await fetch(
                session,
                "purge_sources",
                days=runtime.config.keep_sources_days,
                page=_FILES_PER_TRANSACTION,
                gone=GONE,
            )
            await _unlink(rows)
            purged += len(rows)
            if len(rows) < _FILES_PER_TRANSACTION:
                return purged


async def forget_senders(session: Session, days: float) -> int:
    """Delete who sent the purged source files, and older uploads that were not received; return how many."""
    forgotten = await fetch(session, "forget_uploads", days=days)
    await fetch(session, "forget_senders", days=days)
    return len(forgotten)


async def _unlink(rows: Sequence[Mapping[str, str]]) -> None:
    def unlink() -> dict[str, OSError]:
        failed = {}
        for row in rows:
            try:
                Path(row["stored_path"]).unlink(missing_ok=True)
            except OSError as error:
                failed[row["stored_path"]] = error
        return failed

    for path, error in (await asyncio.to_thread(unlink)).items():
        # The other files are removed nevertheless; this one is tried again for a week.
        get_run_logger().warning("%s is past its retention time, but cannot be removed: %s", path, error)


async def delete_runs(client: PrefectClient, age: timedelta) -> int:
    """Delete from the Prefect server this project's flow runs that ended more than ``age`` ago."""
    ended = {"end_time": {"before_": datetime.now(UTC) - age}}
    state = {"state": {"type": {"any_": sorted(TERMINAL_STATES)}}}
    deleted = 0
    while deleted < _MAX_RUNS:
        runs = await client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=FLOW_NAMES)),
            flow_run_filter=FlowRunFilter.model_validate(ended | state),
            limit=_RUNS_PER_REQUEST,
        )
        if not runs:
            break
        for run in runs:
            with suppress(ObjectNotFound):  # another client deleted it first
                await client.delete_flow_run(run.id)
        deleted += len(runs)
    return deleted


def _audit(runtime: Runtime) -> list[Check]:
    with connection(runtime.database_url, readonly=True, autocommit=True) as ledger:
        return verify(ledger, runtime.settings)


def _remove(folder: Path) -> None:
    discard_outputs(folder, [])
    shutil.rmtree(folder, ignore_errors=True)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def _finding(check: Check) -> str:
    return check.unchecked or f"{len(check.offending)} rows"


def _markdown(removed: Removed, checks: Sequence[Check]) -> str:
    counts = [(name.replace("_", " "), str(count)) for name, count in asdict(removed).items()]
    rules = [(check.name, check.rule, "kept" if check.is_kept else _finding(check)) for check in checks]
    parts = [
        text.markdown_table(["Removed", "Count"], counts),
        text.markdown_table(["Rule", "Meaning", "Result"], rules),
    ]
    for check in checks:
        if check.offending:
            parts.append(f"### {check.name}")
            columns = list(check.offending[0])
            cells = [[str(row.get(name)) for name in columns] for row in check.offending[:_MAX_ROWS_SHOWN]]
            parts.append(text.markdown_table(columns, cells))
    return "\n\n".join(parts) + "\n"
