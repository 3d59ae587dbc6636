"""Run a parent flow in the foreground: in a child process, with its progress read from the ledger."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import psutil
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from flows import reports, services
from flows.cli import pages
from flows.cli.progress import progress, read_run_id
from flows.cli.screen import Screen
from flows.errors import BatchesFailed, ServiceFailed
from flows.ledger.connection import connection
from flows.reports import text
from flows.reports.prefect_api import slots
from flows.reports.summary import TIMING_HEADERS, timing_cells
from flows.services.processes import Child, open_log, python, stop
from flows.settings import Settings

_REFRESH_SECONDS = 0.25
#: Without a terminal, a progress line is printed at most this often.
_LINE_SECONDS = 5.0
#: Up to so many duplicates are named line by line; of more, so many are named as examples.
_DUPLICATES, _EXAMPLES = 10, 3
#: What an operator can do about quarantined files.
_DECIDE = (
    "Quarantined files are kept until you decide: `tdp files --status quarantined` has their ids,"
    " `tdp files return ID FOLDER` copies one back, `tdp files drop ID` removes it."
)


class Finished(msgspec.Struct):
    """A finished run of a parent flow: its final state, its address in the UI, and its summary."""

    flow_run_id: str
    state: str
    message: str | None
    url: str
    summary: reports.Summary
    left: list[reports.LeftFile] = []
    duplicates: list[reports.Duplicate] = []
    skipped: int = 0

    @property
    def status(self) -> int:
        """Exit status: 0 if every file was stored, 3 if some were not, 1 if the run did not complete.

        Files that an operator has dropped do not count.
        """
        if self.state != "Completed":
            return 1
        totals = self.summary.totals
        return 0 if totals.stored + totals.dropped == totals.files and not self.skipped else 3


def run_inbox(settings: Settings, parameters: Mapping[str, Any], console: Screen) -> Finished:
    """Run process_inbox on the running installation of ``settings`` until it ends, showing progress.

    Raises :class:`ServiceFailed` with the end of the log if the process ends without an outcome.
    """
    with connection(settings.database, readonly=True, autocommit=True) as ledger:
        began = reports.clock(ledger)
    finished = _run("flows.process_inbox:process_inbox", settings, parameters, console)
    folder = str(parameters.get("inbox") or settings.inbox)
    with connection(settings.database, readonly=True, autocommit=True) as ledger:
        finished.left = reports.left_files(ledger, folder)
        finished.duplicates = reports.duplicates(ledger, since=began, folder=folder)
    return finished


def run_backfill(settings: Settings, parameters: Mapping[str, Any], console: Screen) -> Finished:
    """Run backfill as :func:`run_inbox` runs process_inbox."""
    return _run("flows.backfill:backfill", settings, parameters, console)


def _run(flow: str, settings: Settings, parameters: Mapping[str, Any], console: Screen) -> Finished:
    limits = _limits(settings)
    with connection(settings.database, readonly=True, autocommit=True) as ledger:

        def follow(process: psutil.Popen, outcome: Path) -> None:
            before = "receiving files" if "inbox" in flow else "listing batches"
            _follow(process, outcome, ledger, limits, console, before)

        ended = _run_process(flow, settings, parameters, console, follow)
        if ended["state"] == "Deleted":
            raise BatchesFailed(ended["message"])
        summary = reports.summary(ledger, ended["flow_run_id"], limits=limits)
    url = f"{services.ui_url(settings)}/runs/flow-run/{ended['flow_run_id']}"
    return Finished(url=url, summary=summary, **ended)


def print_finished(finished: Finished, console: Screen) -> None:
    """Print the summary and the final state of a run."""
    console.print(summary_page(finished.summary))
    incomplete = finished.summary.incomplete
    for file in incomplete:
        outcome = pages.coloured(file.status)
        console.print(
            Text.assemble(outcome, f"  {file.name} ({file.batch_id}): {file.error}"), soft_wrap=True
        )
    totals = finished.summary.totals
    if (more := totals.partial + totals.quarantined - len(incomplete)) > 0:
        console.print(f"and {more:,} more: `tdp show BATCH` lists the files of a batch")
    if totals.quarantined:
        console.print(_DECIDE, soft_wrap=True)
    for line in duplicate_lines(finished.duplicates):
        console.print(line, soft_wrap=True)
    colour = {0: "green", 3: "yellow"}.get(finished.status, "red")
    console.print()
    console.print(Text(finished.state, colour), Text(finished.message or ""), soft_wrap=True)
    for left in finished.left:
        console.print(Text(f"Left in {left.folder}: {left.name}: {left.reason}"), soft_wrap=True)
    console.print(f"Run  {finished.url}", soft_wrap=True)


def duplicate_lines(found: Sequence[reports.Duplicate]) -> list[Text]:
    """Return a line for each duplicate, or one for all with examples if there are many."""
    if len(found) <= _DUPLICATES:
        return [pages.duplicate(one) for one in found]
    some = ", ".join(f"{one.name} (the content of {one.same_as})" for one in found[:_EXAMPLES])
    return [Text(f"{len(found):,} files were known already: {some}, …; `tdp files --duplicates` lists all")]


def summary_page(summary: reports.Summary) -> RenderableType:
    """Return the totals and the lanes of a run."""
    totals = summary.totals
    # One column per stage fits into 80 columns; a row of twelve figures does not.
    stages = [timing_cells(timing) for timing in summary.stages]
    table = pages.plain_table(["", *(cells[0] for cells in stages)], right=range(1, len(stages) + 1))
    for label, *figures in zip(TIMING_HEADERS[1:], *(cells[1:] for cells in stages), strict=True):
        table.add_row(label, *figures)
    rate = totals.messages / summary.elapsed_sec if summary.elapsed_sec else None
    lines = [
        f"{text.count(totals.files, 'file', 'files')} in {text.count(totals.batches, 'batch', 'batches')}:"
        f" {totals.outcomes}",
        f"{totals.messages:,} messages in {text.seconds(summary.elapsed_sec)}, "
        f"{text.number(rate, 0)} per second: {summary.rows}",
    ]
    return Group(*map(Text, lines), *((Text(), table) if stages else ()))


def _run_process(
    flow: str,
    settings: Settings,
    parameters: Mapping[str, Any],
    console: Screen,
    follow: Callable[[psutil.Popen, Path], None],
) -> dict[str, Any]:
    """Run the flow in a process and return the outcome that it writes; ``follow`` returns when the process
    has ended."""
    with TemporaryDirectory(prefix="tdp-run-") as folder:
        log, outcome = settings.logs / "run.log", Path(folder, "outcome.json")
        arguments = {name: value for name, value in parameters.items() if value is not None}
        arguments["fan_out"] = "process"  # there may be no worker, and Ctrl-C must end the batches
        arguments_json = msgspec.json.encode(arguments).decode()
        with open_log(log) as out:
            began = out.seek(0, os.SEEK_END)
            process = psutil.Popen(
                python("flows.cli.flow_process", flow, arguments_json, str(outcome)),
                env={**os.environ, **services.environment(settings)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # only this process receives Ctrl-C; it then stops the child in order
            )
        try:
            follow(process, outcome)
        except KeyboardInterrupt:
            stop(process, signal.SIGINT, grace=15)
            if outcome.exists():
                console.print(msgspec.json.decode(outcome.read_bytes())["message"], soft_wrap=True)
            raise
        finally:
            stop(process, signal.SIGINT, grace=15)
        if not outcome.exists():
            raise _died(process, log, began)
        ended: dict[str, Any] = msgspec.json.decode(outcome.read_bytes())
        return ended


def _died(process: psutil.Popen, log: Path, began: int) -> ServiceFailed:
    """Return the error for a process without an outcome; ``began``: the length of the log at its start."""
    code = process.returncode
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return ServiceFailed(
        f"The process of the run {how}. Recovery re-queues its batches, and the next run continues them."
        " Files that it has not received are still in their folder.",
        *Child("tdp run", process, log, began).log_tail(20),
    )


def _follow(
    process: psutil.Popen,
    outcome: Path,
    ledger: Any,
    limits: Mapping[str, int],
    console: Screen,
    before: str,
) -> None:
    """Show the progress until the process has ended; ``before``: the text until it has batches."""
    if not console.is_terminal:
        _follow_in_lines(process, outcome, ledger, console, before)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while process.poll() is None:
            line = Text(f"This run: {progress(ledger, read_run_id(outcome)) or before}", "bold")
            live.update(Group(line, pages.status_page(reports.status(ledger, limits))), refresh=True)
            time.sleep(_REFRESH_SECONDS)


def _follow_in_lines(process: psutil.Popen, outcome: Path, ledger: Any, console: Screen, before: str) -> None:
    """Print a line when the progress has changed, and the final one when the process has ended."""
    printed, printed_at = "", 0.0
    while process.poll() is None:
        line = str(progress(ledger, read_run_id(outcome)) or before)
        if line != printed and time.monotonic() - printed_at > _LINE_SECONDS:
            console.print(line)
            printed, printed_at = line, time.monotonic()
        time.sleep(_REFRESH_SECONDS)
    final = progress(ledger, read_run_id(outcome))
    if final and str(final) != printed:
        console.print(str(final))


def _limits(settings: Settings) -> dict[str, int]:
    return {name: slot.limit for name, slot in slots(settings).items()}
