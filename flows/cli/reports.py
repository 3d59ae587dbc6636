"""Commands that read the ledger: status, batches, show, timings, timeline, verify, monitor."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import psycopg2
import typer
from rich.live import Live

from flows import reports
from flows.cli import pages
from flows.cli.batch_ids import complete_id
from flows.cli.screen import Screen, console, echo, echo_json, note_more
from flows.cli.settling import with_inbox
from flows.cli.times import Since
from flows.cli.umask import callers_umask
from flows.domain import BatchStatus
from flows.errors import DatabaseUnavailable, ServiceFailed
from flows.ledger.connection import Connection, connection
from flows.ledger.schema_version import check_schema
from flows.monitor import serve
from flows.operations.audit import verify as verify_all
from flows.reports import text
from flows.reports.picture import as_png
from flows.reports.prefect_api import slots
from flows.reports.timeline import timeline_svg
from flows.services import current, ensure_ledger
from flows.settings import Settings

app = typer.Typer()

_WATCH_SECONDS = 1.0


class By(StrEnum):
    """How timings are grouped."""

    stage = "stage"
    batch = "batch"
    day = "day"


Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of tables.")]


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Show the holders and waiters of each lane, and the number of batches and files in each state.

    Entries of the inbox that were not received yet are listed with the reason.
    """
    settings = current(Settings())
    with _ledger(settings) as ledger:
        now = _now(ledger, settings)
        if as_json:
            _print_json(now)
        elif not watch:
            console().print(pages.status_page(now))
        else:
            _watch(ledger, settings, now)


@app.command()
def batches(
    status: Annotated[
        BatchStatus | None, typer.Option(case_sensitive=False, help="Only batches with this status.")
    ] = None,
    held: Annotated[bool, typer.Option("--held", help="Only batches that are held.")] = False,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of batches.")] = 20,
    as_json: Json = False,
) -> None:
    """List batches, newest first."""
    with _ledger() as ledger:
        found = reports.batches(ledger, status=status, held=held, since=since, limit=limit + 1)
    shown = found[:limit]
    if as_json:
        _print_json(shown)
    else:
        console().print(pages.batches_page(shown) if shown else "No batches.")
    if len(found) > limit:
        note_more(limit)


@app.command()
def show(
    batch: Annotated[
        str,
        typer.Argument(
            parser=complete_id, metavar="BATCH", help="Its id, as in `tdp batches`, or its number."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Show one batch: its files with outcome and reason, its stage runs, and where it resumes."""
    with _ledger() as ledger:
        found = reports.batch(ledger, batch)
    if as_json:
        _print_json(found)
    else:
        console().print(pages.batch_page(found))


@app.command()
def timings(
    by: Annotated[
        By, typer.Option(help="One row per stage: in total, for each batch, or for each day (UTC).")
    ] = By.stage,
    since: Since = None,
    as_json: Json = False,
) -> None:
    """Show waits, durations, throughput and use of the slots."""
    settings = current(Settings())
    with _ledger(settings) as ledger:
        found = reports.timings(ledger, by.value, since=since, limits=_limits(settings))
    if as_json:
        _print_json(found)
        return
    if not found:
        console().print("No stage has run.")
        return
    console().print(
        pages.stages_table(found) if by is By.stage else pages.groups_table(found, by.value.capitalize())
    )


@app.command()
def timeline(
    out: Annotated[
        Path, typer.Argument(help="The .svg or .png file to write; `-`: SVG on stdout.", dir_okay=False)
    ],
    run: Annotated[UUID | None, typer.Option(help="Only the batches of this flow run.")] = None,
    since: Since = None,
) -> None:
    """Draw the lanes as an image: when stage runs waited and worked, and idle gaps."""
    if str(out) != "-" and out.suffix not in (".svg", ".png"):
        raise typer.BadParameter(f"{out}: the output is SVG or PNG, so its name ends with .svg or .png")
    with _ledger() as ledger:
        picture = timeline_svg(ledger, flow_run_id=run, since=since)
    if str(out) == "-":
        typer.echo(picture)
    else:
        with callers_umask():  # a picture has no received data
            out.write_bytes(as_png(picture) if out.suffix == ".png" else picture.encode())
        echo(f"{out}: {text.size(out.stat().st_size)}")


@app.command()
def verify(since: Since = None, as_json: Json = False) -> None:
    """Verify the rules: no overlaps, nothing lost, no slot held by a dead run.

    If a rule is broken or cannot be checked, print the offending rows and exit with status 1.
    """
    settings = current(Settings())
    with _ledger(settings) as ledger:
        checks = verify_all(ledger, settings, since=since)
    if as_json:
        _print_json(checks)
    else:
        console().print(pages.verify_page(checks))
    if not all(check.is_kept for check in checks):
        raise typer.Exit(1)


@app.command()
def monitor() -> None:
    """Serve /health, /metrics and /timeline.svg on 127.0.0.1 until Ctrl-C, and log conditions.

    `tdp up` includes the monitor. Run it separately on hosts where the services are started in another way.

    The pages show counts, times, batch ids, host names and errors of services, but no received data. If
    TDP_MONITOR_HOST is not a loopback address, they require the user and password of TDP_AUTH_STRING (HTTP
    Basic). Without them /health returns only the overall status.
    """
    serve(current(Settings()))


@contextmanager
def _ledger(settings: Settings | None = None) -> Iterator[Connection]:
    """Yield a read-only connection to the ledger. Raises DatabaseUnavailable, ServiceFailed."""
    url = ensure_ledger(settings or Settings()).database
    try:
        with connection(url, readonly=True, autocommit=True, connect_timeout=5) as ledger:
            check_schema(ledger)
            yield ledger
    except psycopg2.OperationalError as error:
        raise DatabaseUnavailable(f"{text.short(str(error), 300)} Is `tdp up` running?") from error


def _now(ledger: Connection, settings: Settings) -> reports.Status:
    return with_inbox(reports.status(ledger, _limits(settings)), ledger, settings)


def _limits(settings: Settings) -> dict[str, int]:
    """Return the limits of the server, or nothing if it does not respond: the ledger needs none of them."""
    try:
        return {name: slot.limit for name, slot in slots(settings).items()}
    except ServiceFailed:
        return {}


def _watch(ledger: Connection, settings: Settings, now: reports.Status) -> None:
    page = pages.status_page(now)
    with Live(page, console=Screen(), auto_refresh=False) as live, suppress(KeyboardInterrupt):
        while True:
            time.sleep(_WATCH_SECONDS)
            live.update(pages.status_page(_now(ledger, settings)), refresh=True)


def _print_json(value: Any) -> None:
    echo_json(value, indent=2)
