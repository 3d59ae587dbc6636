"""The summary of a flow run, for its artifact and for the output of a command."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from flows.ledger.connection import Connection
from flows.ledger.named_sql import load, records
from flows.reports import text
from flows.reports.overview import Rows, stored_rows
from flows.reports.timings import Timing, timings

_sql = load("reports.sql")

#: Most files not stored completely that a summary lists; the ledger has all of them.
MAX_INCOMPLETE = 200
#: Most stored files that a summary lists with their numbers of messages.
MAX_LOADED = 50

#: Column headings of the cells that :func:`timing_cells` returns.
TIMING_HEADERS = (
    "Stage",
    "Runs",
    "Failed",
    "Wait, median",
    "Wait, p95",
    "Duration, median",
    "Duration, p95",
    "Files/s",
    "MB/s",
    "Utilisation",
    "Idle gaps",
    "Cancelled",
)


class IncompleteFile(msgspec.Struct, frozen=True):
    """A source file that was quarantined or stored in part, with the reason."""

    batch_id: str
    name: str
    status: str
    stage: str | None
    error: str | None


class LoadedFile(msgspec.Struct, frozen=True):
    """A stored source file, and how many of its messages were new, changed and known already."""

    batch_id: str
    name: str
    messages: int | None
    new: int
    changed: int
    known: int


class FailedBatch(msgspec.Struct, frozen=True):
    """A failed batch and its last error."""

    batch_id: str
    error_message: str | None


class Totals(msgspec.Struct, frozen=True):
    """Numbers of batches, of their source files by outcome, and of the chats and messages read from them.

    ``dropped`` are quarantined files that an operator dropped: no run reads them. ``quarantined`` are the
    others.
    """

    batches: int
    files: int
    stored: int
    partial: int
    quarantined: int
    dropped: int
    waiting: int
    bytes_in: int
    chats: int
    messages: int

    @property
    def outcomes(self) -> str:
        """The numbers of files in words."""
        dropped = f", {self.dropped:,} dropped" if self.dropped else ""
        return (
            f"{self.stored:,} stored, {self.partial:,} in part, {self.quarantined:,} quarantined{dropped},"
            f" {self.waiting:,} waiting"
        )


class Summary(msgspec.Struct, frozen=True):
    """One flow run. ``elapsed_sec`` is from its first stage run queued to its last one ended."""

    flow_run_id: str
    totals: Totals
    rows: Rows
    elapsed_sec: float
    stages: list[Timing]
    failed: list[FailedBatch]
    incomplete: list[IncompleteFile]
    loaded: list[LoadedFile]


def summary(
    connection: Connection,
    flow_run_id: object,
    *,
    limits: Mapping[str, int] | None = None,
) -> Summary:
    """Return the summary of a flow run; a run that is not in the ledger has no batches.

    Stage runs of the same batches in other flow runs, before or after, are not counted.
    """
    ids = _sql.run_batch_ids(connection, flow_run_id=str(flow_run_id))
    stage_runs = _sql.run_stage_runs(connection, flow_run_id=str(flow_run_id))
    return Summary(
        flow_run_id=str(flow_run_id),
        totals=Totals(**_sql.batch_totals(connection, batch_ids=ids)),
        rows=stored_rows(connection, ids),
        elapsed_sec=_sql.elapsed(connection, ids=stage_runs),
        stages=timings(connection, stage_run_ids=stage_runs, limits=limits),
        failed=records(_sql.failed_batches(connection, batch_ids=ids), FailedBatch),
        incomplete=records(
            _sql.incomplete_files(connection, batch_ids=ids, limit=MAX_INCOMPLETE), IncompleteFile
        ),
        loaded=records(_sql.loaded_files(connection, batch_ids=ids, limit=MAX_LOADED), LoadedFile),
    )


def summary_markdown(summary: Summary) -> str:
    """Return the summary as Markdown: totals, stages, failed batches, files by outcome."""
    parts = [_totals(summary), _stages(summary.stages)]
    if summary.failed:
        rows = [(batch.batch_id, text.short(batch.error_message)) for batch in summary.failed]
        parts += ["### Failed batches", text.markdown_table(["Batch", "Error"], rows)]
    parts += _incomplete(summary) if summary.incomplete else []
    parts += _loaded(summary) if summary.loaded else []
    return "\n\n".join(parts) + "\n"


def _incomplete(summary: Summary) -> list[str]:
    lines = [
        (f.name, f.status, f.stage or text.NOTHING, f.error or "", f.batch_id) for f in summary.incomplete
    ]
    more = summary.totals.partial + summary.totals.quarantined - len(lines)
    return [
        "### Files not stored completely",
        text.markdown_table(["File", "Status", "Stage", "Reason", "Batch"], lines),
        *_and_more(more),
    ]


def _loaded(summary: Summary) -> list[str]:
    lines = [
        (f.name, *(text.number(count, 0) for count in (f.messages, f.new, f.changed, f.known)), f.batch_id)
        for f in summary.loaded
    ]
    more = summary.totals.stored + summary.totals.partial - len(lines)
    return [
        "### Messages of the stored files",
        text.markdown_table(["File", "Messages", "New", "Changed", "Known", "Batch"], lines),
        *_and_more(more),
    ]


def _and_more(more: int) -> list[str]:
    return [f"and {more} more: `tdp show BATCH` lists the files of a batch."] if more > 0 else []


def _totals(summary: Summary) -> str:
    totals, elapsed = summary.totals, summary.elapsed_sec or float("nan")
    rows = [
        ("Batches", f"{totals.batches:,}", f"{len(summary.failed):,} failed"),
        (
            "Files",
            f"{totals.files:,}",
            totals.outcomes,
        ),
        ("Chats", f"{totals.chats:,}", ""),
        ("Messages", f"{totals.messages:,}", f"{totals.messages / elapsed:,.0f} per second; {summary.rows}"),
        ("Input", text.size(totals.bytes_in), f"{text.size(totals.bytes_in / elapsed)} per second"),
        ("Elapsed", text.seconds(summary.elapsed_sec), f"{totals.files / elapsed:.1f} files per second"),
    ]
    if not summary.elapsed_sec:
        return "No stage run."
    return text.markdown_table(["", "Total", ""], rows)


def _stages(stages: list[Timing]) -> str:
    return text.markdown_table(TIMING_HEADERS, (timing_cells(timing) for timing in stages))


def timing_cells(timing: Timing) -> tuple[str, ...]:
    """Return the cells of one table row under TIMING_HEADERS."""
    return (
        timing.stage,
        str(timing.runs),
        str(timing.failed),
        text.seconds(timing.wait_median),
        text.seconds(timing.wait_p95),
        text.seconds(timing.duration_median),
        text.seconds(timing.duration_p95),
        text.number(timing.files_per_sec, 2),
        text.number(timing.mb_per_sec, 2),
        text.percent(timing.utilisation),
        text.seconds(timing.idle_sec),
        str(timing.cancelled),
    )
