"""What a whole run did, for its last artifact and for the end of a command."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from flows.ledger.connection import Connection
from flows.ledger.named_sql import load, records
from flows.reports import text
from flows.reports.timings import Timing, timings

_sql = load("reports.sql")

#: A run of thousands of bad files would drown its own summary; the ledger has them all.
REFUSED_SHOWN = 200

#: What the cells of a Timing mean, in the order of :func:`timing_cells`.
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
    "Use of the slots",
    "Idle beside a queue",
)


class RefusedFile(msgspec.Struct, frozen=True):
    """A source file that was quarantined, or stored in part, and why."""

    batch_id: str
    name: str
    status: str
    stage: str | None
    error: str | None


class FailedBatch(msgspec.Struct, frozen=True):
    """A batch that could not be finished, and its last error."""

    batch_id: str
    error_message: str | None


class Totals(msgspec.Struct, frozen=True):
    """Batches, their source files by outcome, and what was read from them."""

    batches: int
    files: int
    stored: int
    partial: int
    quarantined: int
    waiting: int
    bytes_in: int
    chats: int
    messages: int


class Summary(msgspec.Struct, frozen=True):
    """One run. ``elapsed_sec`` goes from the first stage queued to the last one ended."""

    flow_run_id: str
    totals: Totals
    elapsed_sec: float
    stages: list[Timing]
    failed: list[FailedBatch]
    refused: list[RefusedFile]


def summary(
    connection: Connection,
    flow_run_id: object,
    *,
    limits: Mapping[str, int] | None = None,
) -> Summary:
    """Return what the run of that id did; a run the ledger does not know is one of no batches.

    Other runs may have had the same batches before and after it; what they ran is not counted.
    """
    ids = _sql.run_batch_ids(connection, flow_run_id=str(flow_run_id))
    stage_runs = _sql.run_stage_runs(connection, flow_run_id=str(flow_run_id))
    return Summary(
        flow_run_id=str(flow_run_id),
        totals=Totals(**_sql.batch_totals(connection, batch_ids=ids)),
        elapsed_sec=_sql.elapsed(connection, ids=stage_runs),
        stages=timings(connection, stage_run_ids=stage_runs, limits=limits),
        failed=records(_sql.failed_batches(connection, batch_ids=ids), FailedBatch),
        refused=records(_sql.refused_files(connection, batch_ids=ids, limit=REFUSED_SHOWN), RefusedFile),
    )


def summary_markdown(summary: Summary) -> str:
    """Return the summary as Markdown: the totals, the lanes, then failed batches and refused files."""
    parts = [_totals(summary), _stages(summary.stages)]
    if summary.failed:
        rows = [(batch.batch_id, text.short(batch.error_message)) for batch in summary.failed]
        parts += ["### Failed batches", text.markdown_table(["Batch", "Error"], rows)]
    if summary.refused:
        lines = [
            (f.name, f.status, f.stage or text.NOTHING, f.error or "", f.batch_id) for f in summary.refused
        ]
        parts += ["### Files not stored whole"]
        parts += [text.markdown_table(["File", "Status", "Stage", "Reason", "Batch"], lines)]
    refused = summary.totals.partial + summary.totals.quarantined
    if refused > len(summary.refused):
        parts += [f"and {refused - len(summary.refused)} more: `tdp show BATCH` lists the files of a batch."]
    return "\n\n".join(parts) + "\n"


def _totals(summary: Summary) -> str:
    totals, elapsed = summary.totals, summary.elapsed_sec or float("nan")
    rows = [
        ("Batches", f"{totals.batches:,}", f"{len(summary.failed):,} failed"),
        (
            "Files",
            f"{totals.files:,}",
            f"{totals.stored:,} stored, {totals.partial:,} in part, "
            f"{totals.quarantined:,} quarantined, {totals.waiting:,} waiting",
        ),
        ("Chats", f"{totals.chats:,}", ""),
        ("Messages", f"{totals.messages:,}", f"{totals.messages / elapsed:,.0f} per second"),
        ("Input", text.size(totals.bytes_in), f"{text.size(totals.bytes_in / elapsed)} per second"),
        ("Elapsed", text.seconds(summary.elapsed_sec), f"{totals.files / elapsed:.1f} files per second"),
    ]
    if not summary.elapsed_sec:
        return "Nothing was run."
    return text.markdown_table(["", "Total", ""], rows)


def _stages(stages: list[Timing]) -> str:
    return text.markdown_table(TIMING_HEADERS, (timing_cells(timing) for timing in stages))


def timing_cells(timing: Timing) -> tuple[str, ...]:
    """Return the cells of one row under TIMING_HEADERS."""
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
    )
