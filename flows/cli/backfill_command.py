"""`tdp backfill`: what would run again, asked for, run."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from flows.batches.backfill_plan import Plan, plan_backfill
from flows.cli import pages
from flows.cli.foreground import Finished, print_finished, run_backfill
from flows.cli.installed import installed
from flows.cli.signals import stop_on_signals
from flows.domain import BatchStatus, Stage
from flows.ledger.selection import Filters, select_batches
from flows.ledger.session import connect, fetch
from flows.reports import text
from flows.reports.prefect_api import slots
from flows.services import running
from flows.settings import Settings

#: A backfill of more batches than this is asked for again.
_ASK_ABOVE = 100
#: Batches listed by a dry run for people; scripts get all.
_SHOWN = 50


def _day(value: str) -> date:
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise typer.BadParameter(f"{value!r}: write a day like 2026-03-01") from None


_DAY: dict[str, Any] = {"parser": _day, "metavar": "DAY"}


def backfill(
    batches: Annotated[list[str] | None, typer.Argument(help="Batch ids.", show_default=False)] = None,
    status: Annotated[
        BatchStatus | None, typer.Option(case_sensitive=False, help="Only batches of this status.")
    ] = None,
    received_from: Annotated[
        date | None, typer.Option(**_DAY, help="With files received on that day or later.")
    ] = None,
    received_to: Annotated[date | None, typer.Option(**_DAY, help="… on that day or before (UTC).")] = None,
    processed_from: Annotated[date | None, typer.Option(**_DAY, help="Ended on that day or later.")] = None,
    processed_to: Annotated[date | None, typer.Option(**_DAY, help="… on that day or before (UTC).")] = None,
    source: Annotated[
        str | None, typer.Option(help="With a source file of this name (*, ?) or SHA-256.")
    ] = None,
    error: Annotated[
        str | None, typer.Option(help="With this text in the error of the batch or of a file.")
    ] = None,
    from_stage: Annotated[Stage, typer.Option("--from", help="The first stage to run again.")] = "extract",
    window: Annotated[int | None, typer.Option(min=1, help="Batches in flight.")] = None,
    resume: Annotated[
        UUID | None, typer.Option(help="Do what this earlier backfill (its flow run) left undone.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would run, and for how long.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, however many batches.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of text.")] = False,
) -> None:
    """Run batches again: all for which everything given is true. Scheduled work goes first.

    A backfill that was interrupted goes on with --resume, or with Retry in the Prefect UI if it ran there.
    """
    filters = Filters(
        batches or None, status, received_from, received_to, processed_from, processed_to, source, error
    )
    if resume and (dry_run or filters != Filters()):
        raise typer.BadParameter(
            "--resume takes up a list that is there: it goes with no filter or --dry-run"
        )
    if dry_run:
        found = running(Settings())
        _print_plan(asyncio.run(_plan(found.settings if found else Settings(), filters, from_stage)), as_json)
        return
    console = Console(stderr=as_json)
    with stop_on_signals(), installed(Settings()) as settings:
        if not resume and not yes:
            _ask(asyncio.run(_plan(settings, filters, from_stage)))
        given = {**asdict(filters), "from_stage": from_stage, "window": window, "resume": resume}
        finished = _run(settings, given, console)
    if as_json:
        typer.echo(msgspec.json.encode(finished))
    else:
        print_finished(finished, console)
    raise typer.Exit(finished.status)


def _ask(plan: Plan) -> None:
    if len(plan.batches) > _ASK_ABOVE:
        span = text.seconds(plan.seconds)
        typer.confirm(f"Run {len(plan.batches)} batches again, about {span}?", abort=True, err=True)


def _run(settings: Settings, given: dict[str, Any], console: Console) -> Finished:
    began = datetime.now(UTC)
    try:
        return run_backfill(settings, given, console)
    except KeyboardInterrupt:
        if listed := asyncio.run(_listed_since(settings, began)):
            console.print(f"Interrupted. Go on with: tdp backfill --resume {listed}", soft_wrap=True)
        raise


async def _plan(settings: Settings, filters: Filters, from_stage: str) -> Plan:
    limits = {name: slot.limit for name, slot in slots(settings).items()}
    async with await connect(settings.database, "tdp backfill", patience=0) as session:
        chosen = await select_batches(session, filters)
        return await plan_backfill(session, chosen, from_stage, settings.work, limits)


async def _listed_since(settings: Settings, moment: datetime) -> UUID | None:
    async with await connect(settings.database, "tdp backfill", patience=0) as session:
        rows = await fetch(session, "backfills_listed_since", moment=moment)
    return rows[0]["flow_run_id"] if rows else None


def _print_plan(plan: Plan, as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(plan))
        return
    lanes = pages.plain_table(["Stage", "Runs", "Slots", "Average", "Total"], right=range(1, 5))
    for lane in plan.lanes:
        spans = text.seconds(lane.average_sec), text.seconds(lane.seconds)
        lanes.add_row(lane.stage, str(lane.runs), str(lane.slots), *spans)
    batches = pages.plain_table(["Batch", "Would run", "Refused"])
    for batch in plan.batches[:_SHOWN]:
        batches.add_row(batch.batch_id, ", ".join(batch.stages) or text.NOTHING, Text(batch.refused or ""))
    console = Console()
    console.print(batches)
    if len(plan.batches) > _SHOWN:
        console.print(f"… and {len(plan.batches) - _SHOWN} more")
    console.print()
    console.print(lanes)
    console.print(
        f"\n{len(plan.batches)} batches, about {text.seconds(plan.seconds)} according to past averages"
    )
