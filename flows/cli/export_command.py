"""`tdp export`: messages and the other relations as a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from flows.cli.reports import _ledger
from flows.cli.screen import Screen, echo
from flows.cli.signals import stop_on_signals
from flows.cli.times import SinceUtc, Timeout, UntilUtc
from flows.errors import ExportFailed
from flows.ledger.connection import Connection
from flows.reports import text
from flows.tables.choosing import chat_keys
from flows.tables.orders import OF_CHATS, STREAMS, Choice, Format, Order, What, format_of
from flows.tables.sessions import answer, prepare, timed_out

if TYPE_CHECKING:
    from flows.tables.export import Exported

Chats = Annotated[
    list[str] | None,
    typer.Option(
        "--chat", metavar="CHAT", help="Only this chat: its name, a part of it, id or key. Repeatable."
    ),
]

_Out = Annotated[
    Path, typer.Argument(help="The file to write; `-` writes CSV or JSON Lines to stdout.", dir_okay=False)
]
_Bom = Annotated[bool, typer.Option("--bom", help="CSV: begin with the mark by which Excel knows UTF-8.")]
_EscapeFormulas = Annotated[
    bool, typer.Option("--escape-formulas", help="CSV: put ' before texts that begin like a formula.")
]


def export_(
    out: _Out,
    chat: Chats = None,
    since: SinceUtc = None,
    until: UntilUtc = None,
    what: Annotated[What, typer.Option(help="What to export.")] = What.messages,
    chosen: Annotated[Format | None, typer.Option("--format", help="Default: by the suffix.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    bom: _Bom = False,
    escape_formulas: _EscapeFormulas = False,
    timeout: Timeout = None,
) -> None:
    """Export messages, chats, senders, stage runs or timings to a file.

    The suffix names the format: .parquet, .csv, .jsonl, .sqlite, .duckdb or .xlsx. Times are in UTC, with the
    offset. The file appears when it is complete. A load never waits for an export.
    """
    if chat and what not in OF_CHATS:
        raise typer.BadParameter(f"{what} are not of one chat: leave --chat out")
    if (since or until) and what is What.chats:
        raise typer.BadParameter("chats have no time: leave --since and --until out")
    format_ = _format(out, chosen)
    if (bom or escape_formulas) and format_ is not Format.csv:
        raise typer.BadParameter("--bom and --escape-formulas are for CSV")
    # Late: Arrow is slow to import, and the other commands do not need it.
    from flows.tables.export import export, export_text

    with stop_on_signals(), _ledger() as ledger, timed_out(timeout):
        prepare(ledger, timeout)
        keys = answer(ledger, lambda: chat_keys(ledger, chat or []))
        order = Order(what, Choice(keys, since, until), format_, bom, escape_formulas)
        if str(out) == "-":
            stdout = sys.stdout.buffer
            # Unbuffered: the rest of a buffer would be written at the end of an interrupted process.
            export_text(ledger, order, getattr(stdout, "raw", stdout), lambda _: None)
            return
        with _progress(ledger, order) as report:
            done = export(ledger, order, out, force=force, report=report)
    _print_done(out, done)


def _print_done(out: Path, done: Exported) -> None:
    notes = "" if done.rows else "; nothing matches"
    if done.cut:
        cut = text.count(done.cut, "text", "texts")
        notes += f"; {cut} cut to 32,767 characters, as long as a cell can be"
    echo(f"{out}: {text.count(done.rows, 'row', 'rows')}, {text.size(out.stat().st_size)}{notes}")


def _format(out: Path, chosen: Format | None) -> Format:
    if str(out) != "-":
        return chosen or format_of(out)
    if chosen not in (None, *STREAMS):
        raise ExportFailed(f"{chosen} cannot be written to stdout; CSV and JSON Lines can")
    return chosen or Format.csv


@contextmanager
def _progress(ledger: Connection, order: Order) -> Iterator[Callable[[int], object]]:
    """Show the rows so far, of about how many."""
    console = Screen(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    from flows.tables.copying import estimate, query
    from flows.tables.relations import COLUMNS

    rows = query(order.what, list(COLUMNS[order.what]))
    about = answer(ledger, lambda: estimate(ledger, rows, order.choice))
    columns = TextColumn("{task.completed:,} rows of about {task.total:,}"), BarColumn(), TaskProgressColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("", total=max(about, 1))
        yield lambda rows: progress.update(task, completed=rows)
