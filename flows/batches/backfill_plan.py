"""What a backfill would do to each batch, and how long that should take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from flows.batches.workdir import kept_stages
from flows.domain import STAGES
from flows.errors import SourceMissing
from flows.ledger.session import Session, fetch
from flows.reports import text


class Planned(msgspec.Struct, frozen=True):
    """One batch: the stages that would run, and why it would be refused if it would."""

    batch_id: str
    stages: list[str]
    refused: str | None = None


class Lane(msgspec.Struct, frozen=True):
    """One stage: its runs, their average duration so far (null: none has ended yet) and its slots."""

    stage: str
    runs: int
    average_sec: float | None
    slots: int

    @property
    def seconds(self) -> float:
        """How long the lane would be busy."""
        return self.runs * (self.average_sec or 0.0) / self.slots


class Plan(msgspec.Struct, frozen=True):
    """A backfill not yet done. ``seconds``: of the busiest lane, and of one batch through all the others."""

    batches: list[Planned]
    lanes: list[Lane]
    seconds: float


async def plan_backfill(
    session: Session, batch_ids: Sequence[str], from_stage: str, work: Path, limits: Mapping[str, int]
) -> Plan:
    """Return what a backfill of ``batch_ids`` from ``from_stage`` on would do; nothing is changed.

    ``work`` is where batches are worked on, ``limits`` has the slots of the stages that are not exclusive.
    """
    sources: dict[str, list[Mapping[str, object]]] = {}
    for row in await fetch(session, "sources_of_batches", batch_ids=list(batch_ids)):
        sources.setdefault(row["batch_id"], []).append(row)
    batches = []
    for batch_id in batch_ids:
        kept = kept_stages(work / batch_id, from_stage)
        refused = None if kept else refusal(sources.get(batch_id, []))
        stages = [] if refused else [stage for stage in STAGES if stage not in kept]
        batches.append(Planned(batch_id, stages, refused))
    runs = Counter(stage for batch in batches for stage in batch.stages)
    lanes = [
        Lane(row["stage"], runs[row["stage"]], row["average_sec"], _slots(row, limits))
        for row in await fetch(session, "average_durations")
    ]
    busiest = max(lanes, key=lambda lane: lane.seconds)
    others = sum(lane.average_sec or 0.0 for lane in lanes if lane.runs and lane is not busiest)
    return Plan(batches, lanes, busiest.seconds + others)


async def ensure_readable(session: Session, batch_id: str) -> None:
    """Raise SourceMissing unless every source file of the batch is still there to be extracted again."""
    rows = await fetch(session, "sources_of_batches", batch_ids=[batch_id])
    if reason := refusal(rows):
        raise SourceMissing(f"{batch_id} stays as it is: {reason}")


def refusal(sources: Iterable[Mapping[str, object]]) -> str | None:
    """Return why the batch of these source files (rows) cannot be extracted again; None if it can."""
    past = [str(row["name"]) for row in sources if row["purged_at"]]
    if past:
        return f"{_named(past)} past the time sources are kept; drop in the inbox again what is to be read"
    gone = [str(row["name"]) for row in sources if not Path(str(row["stored_path"])).exists()]
    return f"{_named(gone)} gone from disk; drop in the inbox again what is to be read" if gone else None


def plan_markdown(plan: Plan) -> str:
    """Return the plan as Markdown tables."""
    lanes = [
        (
            lane.stage,
            str(lane.runs),
            str(lane.slots),
            text.seconds(lane.average_sec),
            text.seconds(lane.seconds),
        )
        for lane in plan.lanes
    ]
    batches = [(b.batch_id, ", ".join(b.stages) or text.NOTHING, b.refused or "") for b in plan.batches]
    return "\n\n".join(
        (
            f"{len(plan.batches)} batches, about {text.seconds(plan.seconds)} by past averages",
            text.markdown_table(["Stage", "Runs", "Slots", "Average", "In all"], lanes),
            text.markdown_table(["Batch", "Would run", "Refused because"], batches),
        )
    )


def _slots(row: Mapping[str, object], limits: Mapping[str, int]) -> int:
    return 1 if row["exclusive"] else max(1, limits.get(str(row["stage"]), 1))


def _named(names: list[str]) -> str:
    more = f" and {len(names) - 3} more are" if len(names) > 3 else " is" if len(names) == 1 else " are"
    return ", ".join(names[:3]) + more
