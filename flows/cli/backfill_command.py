"""`tdp backfill`: plan, confirm and run batches again."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Annotated, Any, NoReturn
from uuid import UUID

import typer
from rich.text import Text

from flows.batches.backfill_plan import Plan, plan_backfill
from flows.cli import pages
from flows.cli.batch_ids import HELP, complete_id
from flows.cli.foreground import Finished, print_finished, run_backfill
from flows.cli.installed import installed
from flows.cli.screen import Screen, console, echo, echo_json
from flows.cli.signals import stop_on_signals
from flows.cli.times import in_order
from flows.domain import BatchStatus, Stage
from flows.ledger.selection import Filters, select_batches
from flows.ledger.session import connect, fetch
from flows.reports import text
from flows.reports.prefect_api import slots
from flows.services import ensure_ledger
from flows.settings import Settings

#: A backfill of more batches than this must be confirmed.
_CONFIRM_ABOVE = 100
#: Batches that a dry run prints as text; JSON has all of them.
_SHOWN = 50


def _day(value: str) -> date:
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise typer.BadParameter(f"{value!r}: use a date such as 2026-03-01") from None


def _day_option(which: str) -> Any:
    return typer.Option(parser=_day, callback=in_order, metavar="DAY", help=f"Only {which} (UTC).")


_Status = Annotated[
    BatchStatus | None, typer.Option(case_sensitive=False, help="Only batches with this status.")
]
_ReceivedFrom = Annotated[date | None, _day_option("with files received on this day or later")]
_ReceivedTo = Annotated[date | None, _day_option("with files received on this day or earlier")]
_ProcessedFrom = Annotated[date | None, _day_option("batches that ended on this day or later")]
_ProcessedTo = Annotated[date | None, _day_option("batches that ended on this day or earlier")]
_Source = Annotated[
    str | None, typer.Option(help="Only with a source file of this name (wildcards *, ?) or SHA-256.")
]
_Error = Annotated[
    str | None, typer.Option(help="Only with this text in the error of the batch or of a file.")
]
_Resume = Annotated[UUID | None, typer.Option(help="Continue the earlier backfill with this flow run id.")]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would run and the expected duration; run nothing.")
]
_Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask for confirmation, whatever the number of batches.")
]


def backfill(
    batches: Annotated[
        list[str] | None, typer.Argument(parser=complete_id, metavar="BATCH", help=HELP, show_default=False)
    ] = None,
    status: _Status = None,
    received_from: _ReceivedFrom = None,
    received_to: _ReceivedTo = None,
    processed_from: _ProcessedFrom = None,
    processed_to: _ProcessedTo = None,
    source: _Source = None,
    error: _Error = None,
    from_stage: Annotated[Stage, typer.Option("--from", help="The first stage to run again.")] = "extract",
    window: Annotated[int | None, typer.Option(min=1, help="Batches in flight.")] = None,
    resume: _Resume = None,
    dry_run: _DryRun = False,
    yes: _Yes = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of text.")] = False,
) -> None:
    """Run batches again: those that match all given conditions. Scheduled runs take precedence.

    If no batch matches, a dry run reports that; without --dry-run it is an error.

    Continue an interrupted backfill with --resume, or with Retry in the Prefect UI if it was started there.
    Exit status 3: it completed, but files were not stored in full or batches were skipped; they are named.
    """
    filters = Filters(
        batches or None, status, received_from, received_to, processed_from, processed_to, source, error
    )
    if resume and (dry_run or filters != Filters()):
        raise typer.BadParameter(
            "--resume continues an existing list of batches: it cannot be combined with filters or --dry-run"
        )
    if dry_run:
        settings = ensure_ledger(Settings())
        _print_plan(asyncio.run(_plan(settings, filters, from_stage, may_be_empty=True)), as_json)
        return
    parameters = {**asdict(filters), "from_stage": from_stage, "window": window, "resume": resume}
    _run_and_print(parameters, None if resume else filters, yes, as_json)


def _run_and_print(parameters: dict[str, Any], filters: Filters | None, yes: bool, as_json: bool) -> NoReturn:
    """Run the backfill if its ``filters`` choose batches and, without ``yes``, it is confirmed; then exit."""
    console = Screen(stderr=as_json)
    with stop_on_signals(), installed(Settings(), console.print) as settings:
        if filters:
            plan = asyncio.run(_plan(settings, filters, parameters["from_stage"]))
            if not yes:
                _confirm(plan)
        finished = _run(settings, parameters, console)
    if as_json:
        echo_json(finished)
    else:
        print_finished(finished, console)
    raise typer.Exit(finished.status)


def _confirm(plan: Plan) -> None:
    if len(plan.batches) > _CONFIRM_ABOVE:
        total = text.count(len(plan.batches), "batch", "batches")
        duration = text.seconds(plan.seconds)
        typer.confirm(f"Run {total} again (about {duration})?", abort=True, err=True)


def _run(settings: Settings, parameters: dict[str, Any], console: Screen) -> Finished:
    began = datetime.now(UTC)
    try:
        return run_backfill(settings, parameters, console)
    except KeyboardInterrupt:
        if listed := asyncio.run(_listed_since(settings, began)):
            console.print(f"Interrupted. To continue: tdp backfill --resume {listed}", soft_wrap=True)
        raise


async def _plan(settings: Settings, filters: Filters, from_stage: str, *, may_be_empty: bool = False) -> Plan:
    limits = {name: slot.limit for name, slot in slots(settings).items()}
    async with await connect(settings.database, "tdp backfill", patience=0) as session:
        chosen = await select_batches(session, filters, may_be_empty=may_be_empty)
        return await plan_backfill(session, chosen, from_stage, settings.work, limits)


async def _listed_since(settings: Settings, moment: datetime) -> UUID | None:
    async with await connect(settings.database, "tdp backfill", patience=0) as session:
        rows = await fetch(session, "backfills_listed_since", moment=moment)
    return rows[0]["flow_run_id"] if rows else None


def _print_plan(plan: Plan, as_json: bool) -> None:
    if as_json:
        echo_json(plan)
        return
    if not plan.batches:
        echo("No batch matches all filters: nothing would run.")
        return
    lanes = pages.plain_table(["Stage", "Runs", "Slots", "Average", "Total"], right=range(1, 5))
    for lane in plan.lanes:
        durations = text.seconds(lane.average_sec), text.seconds(lane.seconds)
        lanes.add_row(lane.stage, str(lane.runs), str(lane.slots), *durations)
    batches = pages.plain_table(["Batch", "Would run", "Refused"])
    for batch in plan.batches[:_SHOWN]:
        batches.add_row(batch.batch_id, ", ".join(batch.stages) or text.NOTHING, Text(batch.refused or ""))
    out = console()
    out.print(batches)
    if len(plan.batches) > _SHOWN:
        out.print(f"… and {len(plan.batches) - _SHOWN} more")
    out.print()
    out.print(lanes)
    total = text.count(len(plan.batches), "batch", "batches")
    out.print()
    out.print(f"{total}, about {text.seconds(plan.seconds)} based on past averages")
