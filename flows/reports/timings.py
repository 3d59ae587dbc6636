"""How long stages wait and work, and how well their lanes are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import msgspec

from flows.reports import text
from flows.reports.queries import Connection, records, sql

if TYPE_CHECKING:
    import pandas as pd

By = Literal["batch", "day", "stage"]


class Timing(msgspec.Struct, frozen=True):
    """One stage within one group of stage runs.

    ``group`` is the batch, the day (UTC) or ``all``. Waits are of runs that got through their gate,
    durations of runs that completed, in seconds. Throughput is files and megabytes (10^6 bytes of input)
    per second in which the lane was at work. ``utilisation`` is the share of slots in use from the group's
    first queueing to its last end; null when the lane's limit is not known. ``idle_sec`` is the time an
    exclusive lane stood free while a batch waited for it.
    """

    group: str
    stage: str
    runs: int
    failed: int
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
    """Return the timings of all stage runs, or of some, or of those queued since a time.

    ``limits`` are those of the Prefect server by stage; an exclusive stage's is 1 by definition.
    """
    import pandas as pd  # takes a second: whoever asks for no timings does not pay it

    rows = list(sql.stage_runs(connection, ids=stage_run_ids, batch_ids=None, since=since))
    if not rows:
        return []
    table = _aggregate(_prepare(pd.DataFrame(rows), by), limits or {})
    return records(table.astype(object).where(table.notna(), None).to_dict("records"), Timing)


def timings_markdown(connection: Connection, batch_ids: Sequence[str]) -> str:
    """Return a table of every stage run of these batches, in the order they were queued."""
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
            for row in sql.stage_runs(connection, ids=None, batch_ids=list(batch_ids), since=None)
        ),
    )


def _prepare(runs: pd.DataFrame, by: By) -> pd.DataFrame:
    """Return the runs with their group, and with times in seconds since the first was queued."""
    import pandas as pd

    times = {name: pd.to_datetime(runs[name], utc=True) for name in ("queued_at", "started_at", "ended_at")}
    zero = times["queued_at"].min()
    groups = {"batch": runs["batch_id"], "day": times["queued_at"].dt.strftime("%Y-%m-%d")}
    started, completed = runs["started_at"].notna(), runs["outcome"] == "COMPLETED"
    return runs.assign(
        group=groups.get(by, "all"),
        **{name: (time - zero).dt.total_seconds() for name, time in times.items()},
        worked=runs["duration_sec"].where(started, 0.0).astype(float),
        failed=runs["outcome"].notna() & ~completed,
        wait_sec=runs["wait_sec"].where(started).astype(float),
        duration_sec=runs["duration_sec"].where(completed).astype(float),
        files=runs["files"].where(completed).astype(float),
        bytes_in=runs["bytes_in"].where(completed).astype(float),
    )


def _aggregate(runs: pd.DataFrame, limits: Mapping[str, int]) -> pd.DataFrame:
    """Return one row per group and stage, in the order of the data, with the fields of Timing."""
    import pandas as pd

    lane = ["group", "position", "stage", "exclusive"]
    grouped = runs.groupby(lane)
    of_group = runs.groupby("group")
    elapsed = of_group["ended_at"].max() - of_group["queued_at"].min()
    busy = _covered(runs[runs["started_at"].notna()], "started_at", lane)
    table = pd.DataFrame(
        {
            "runs": grouped.size(),
            "failed": grouped["failed"].sum(),
            "wait_median": grouped["wait_sec"].median(),
            "wait_p95": grouped["wait_sec"].quantile(0.95),
            "duration_median": grouped["duration_sec"].median(),
            "duration_p95": grouped["duration_sec"].quantile(0.95),
            "files_per_sec": grouped["files"].sum(min_count=1) / busy,
            "mb_per_sec": grouped["bytes_in"].sum(min_count=1) / 1e6 / busy,
            "worked": grouped["worked"].sum(),
            "idle_sec": _covered(runs, "queued_at", lane).sub(busy, fill_value=0.0),
        }
    ).reset_index()
    slots = table["stage"].map(limits).where(~table["exclusive"], 1)
    table["utilisation"] = table["worked"] / slots.astype(float) / table["group"].map(elapsed)
    table["idle_sec"] = table["idle_sec"].where(table["exclusive"])
    return table.drop(columns=["position", "exclusive", "worked"])


def _covered(runs: pd.DataFrame, start: str, lane: list[str]) -> pd.Series[float]:
    """Return the seconds of each lane in which at least one run was between ``start`` and its end."""
    ordered = runs.sort_values(start)
    reached = ordered.groupby(lane)["ended_at"].cummax()
    before = reached.groupby([ordered[name] for name in lane]).shift()
    begin = ordered[start].where(before.isna() | (ordered[start] > before), before)
    return (ordered["ended_at"] - begin).clip(lower=0).groupby([ordered[name] for name in lane]).sum()
