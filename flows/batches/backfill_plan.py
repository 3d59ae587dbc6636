"""The plan of a backfill: the stages it would run for each batch, and how long that should take."""

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

#: What an operator does about source files that are not available.
_REMEDY = "copy the files into the inbox again, then repeat the backfill"


class PlannedBatch(msgspec.Struct, frozen=True):
    """One batch: the stages that would run, and the reason if it would be refused."""

    batch_id: str
    stages: list[str]
    refused: str | None = None


class Lane(msgspec.Struct, frozen=True):
    """One stage: its planned runs, the average duration of past runs (null: there are none), its slots."""

    stage: str
    runs: int
    average_sec: float | None
    slots: int

    @property
    def seconds(self) -> float:
        """Seconds for which the lane would be busy."""
        return self.runs * (self.average_sec or 0.0) / self.slots


class Plan(msgspec.Struct, frozen=True):
    """A backfill before it runs. ``seconds``: the busiest lane, plus one batch through the other lanes."""

    batches: list[PlannedBatch]
    lanes: list[Lane]
    seconds: float


async def plan_backfill(
    session: Session, batch_ids: Sequence[str], from_stage: str, work: Path, limits: Mapping[str, int]
) -> Plan:
    """Return the plan of a backfill of ``batch_ids`` from ``from_stage`` on, without changing anything.

    ``work`` is the parent of the work directories; ``limits`` has the slots of stages that are not exclusive.
    """
    sources: dict[str, list[Mapping[str, object]]] = {}
    for row in await fetch(session, "sources_of_batches", batch_ids=list(batch_ids)):
        sources.setdefault(row["batch_id"], []).append(row)
    batches = []
    for batch_id in batch_ids:
        kept = kept_stages(work / batch_id, from_stage)
        refused = None if kept else missing_sources(sources.get(batch_id, []))
        stages = [] if refused else [stage for stage in STAGES if stage not in kept]
        batches.append(PlannedBatch(batch_id, stages, refused))
    runs = Counter(stage for batch in batches for stage in batch.stages)
    lanes = [
        Lane(row["stage"], runs[row["stage"]], row["average_sec"], _slots(row, limits))
        for row in await fetch(session, "average_durations")
    ]
    busiest = max(lanes, key=lambda lane: lane.seconds)
    others = sum(lane.average_sec or 0.0 for lane in lanes if lane.runs and lane is not busiest)
    return Plan(batches, lanes, busiest.seconds + others)


async def ensure_readable(session: Session, batch_id: str) -> None:
    """Raise SourceMissing unless all source files of the batch are available to be extracted again."""
    rows = await fetch(session, "sources_of_batches", batch_ids=[batch_id])
    if reason := missing_sources(rows):
        raise SourceMissing(f"{batch_id} is unchanged: {reason}")


def missing_sources(sources: Iterable[Mapping[str, object]]) -> str | None:
    """Return why a batch with these source files (rows) cannot be extracted again; None if it can."""
    sources = list(sources)
    if not sources:
        return f"all its files were dropped; {_REMEDY}"
    purged = [str(row["name"]) for row in sources if row["purged_at"]]
    if purged:
        return f"{_subject(purged)} past retention; {_REMEDY}"
    missing = [str(row["name"]) for row in sources if not Path(str(row["stored_path"])).exists()]
    return f"{_subject(missing)} missing on disk; {_REMEDY}" if missing else None


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
            f"{text.count(len(plan.batches), 'batch', 'batches')},"
            f" about {text.seconds(plan.seconds)} according to past averages",
            text.markdown_table(["Stage", "Runs", "Slots", "Average", "Total"], lanes),
            text.markdown_table(["Batch", "Would run", "Refused"], batches),
        )
    )


def _slots(row: Mapping[str, object], limits: Mapping[str, int]) -> int:
    return 1 if row["exclusive"] else max(1, limits.get(str(row["stage"]), 1))


def _subject(names: list[str]) -> str:
    more = f" and {len(names) - 3} more are" if len(names) > 3 else " is" if len(names) == 1 else " are"
    return ", ".join(names[:3]) + more
