"""Timings of stages: waits, durations, throughput and utilisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from flows.ledger.connection import Connection
from flows.ledger.named_sql import load, records
from flows.reports import text

_sql = load("reports.sql")

By = Literal["batch", "day", "stage"]


class Timing(msgspec.Struct, frozen=True):
    """One stage within one group of stage runs.

    ``group`` is the batch, the day (UTC) or ``all``. ``cancelled`` runs are not among the ``failed``. Waits
    are those of runs that passed their gate, durations those of completed runs, in seconds. Throughput is
    files and megabytes (10^6 bytes of input) per second in which the lane was at work. ``utilisation`` is the
    fraction of slots in use between the group's first queueing and last end; null if the lane's limit is not
    known. ``idle_sec`` is the total of an exclusive lane's idle gaps: time in which it was free although a
    batch was waiting for it.
    """

    group: str
    stage: str
    runs: int
    failed: int
    cancelled: int
    wait_median: float | None
    wait_p95: float | None
    duration_median: float | None
    duration_p95: float | None
    files_per_sec: float | None
    mb_per_sec: float | None
    utilisation: float | None
    idle_sec: float | None


def timings(
    connection: Connection,
    by: By = "stage",
    *,
    stage_run_ids: list[int] | None = None,
    since: datetime | None = None,
    limits: Mapping[str, int] | None = None,
) -> list[Timing]:
    """Return the timings of all stage runs, of those with these ids, or of those queued since a time.

    ``limits`` maps stages to the limits of the Prefect server; that of an exclusive stage is always 1.
    """
    lanes = _sql.timings(
        connection, by=by, ids=stage_run_ids, since=since, limits=msgspec.json.encode(limits or {}).decode()
    )
    return records(lanes, Timing)


def timings_markdown(connection: Connection, batch_ids: Sequence[str]) -> str:
    """Return a Markdown table of all stage runs of these batches, in the order they were queued."""
    return text.markdown_table(
        ["Batch", "Stage", "Attempt", "Wait", "Duration", "Files", "Input", "Outcome"],
        (
            (
                row["batch_id"],
                row["stage"],
                str(row["attempt"]),
                text.seconds(row["wait_sec"]),
                text.seconds(row["duration_sec"]),
                text.number(row["files"], 0),
                text.size(row["bytes_in"]),
                row["outcome"] or ("RUNNING" if row["started_at"] else "WAITING"),
            )
            for row in _sql.stage_runs(connection, ids=None, batch_ids=list(batch_ids), since=None)
        ),
    )
