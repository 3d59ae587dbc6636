"""Stage runs as spans of time: when they waited and worked, and the idle gaps of a lane."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

import msgspec

from flows.reports import text

#: Begin and end, in seconds since the first run was queued.
Span = tuple[float, float]


class Row(msgspec.Struct, frozen=True):
    """A stage run in the ledger; ``ended_at`` is the current time for a run that has not ended."""

    batch_id: str
    stage: str
    exclusive: bool
    slot: int
    attempt: int
    outcome: str | None
    queued_at: datetime
    started_at: datetime | None
    ended_at: datetime


class Run(msgspec.Struct, frozen=True):
    """A stage run with its two spans; ``work`` is empty for a run that never passed its gate."""

    row: Row
    wait: Span
    work: Span

    @property
    def number(self) -> str:
        """The batch's number without leading zeros."""
        return self.row.batch_id.removeprefix("batch_").lstrip("0")

    @property
    def has_failed(self) -> bool:
        """Whether the run failed, timed out or was lost."""
        return self.row.outcome not in (None, "COMPLETED", "CANCELLED")

    @property
    def description(self) -> str:
        """The run in one line of text."""
        waited, worked = (text.seconds(end - begin) for begin, end in (self.wait, self.work))
        outcome = self.row.outcome or ("still at work" if self.row.started_at else "still waiting")
        attempt = f", attempt {self.row.attempt}" if self.row.attempt > 1 else ""
        return f"{self.row.batch_id} {self.row.stage}{attempt}: waited {waited}, worked {worked}, {outcome}"


class Lane(msgspec.Struct, frozen=True):
    """A stage's runs in the order they started, its idle gaps, and the lengths of its queue."""

    stage: str
    runs: list[Run]
    idle_gaps: list[Span]
    depths: list[tuple[float, int]]

    @property
    def is_exclusive(self) -> bool:
        """Whether only one run may be at work at a time."""
        return self.runs[0].row.exclusive

    def within(self, window: Span) -> Iterator[Run]:
        """Return the runs that were at work in ``window``."""
        begin, end = window
        return (run for run in self.runs if run.work[1] > begin and run.work[0] < end)


def lanes(runs: Sequence[Run], stages: Sequence[str]) -> list[Lane]:
    """Return the lanes that have runs, in the order of ``stages``."""
    ordered = sorted(runs, key=lambda run: run.work)
    by_stage = {stage: [run for run in ordered if run.row.stage == stage] for stage in stages}
    return [Lane(stage, own, idle_gaps(own), depths(own)) for stage, own in by_stage.items() if own]


def runs(rows: Sequence[Row]) -> list[Run]:
    """Return ``rows`` (oldest first) with their spans."""

    def seconds(moment: datetime) -> float:
        return (moment - rows[0].queued_at).total_seconds()

    return [
        Run(
            row,
            wait=(seconds(row.queued_at), seconds(row.started_at or row.ended_at)),
            work=(seconds(row.started_at or row.ended_at), seconds(row.ended_at)),
        )
        for row in rows
    ]


def clip(spans: Iterable[Span], window: Span) -> list[Span]:
    """Return the non-empty parts of ``spans`` within ``window``."""
    cut = ((max(begin, window[0]), min(end, window[1])) for begin, end in spans)
    return [(begin, end) for begin, end in cut if begin < end]


def idle_gaps(lane: Sequence[Run]) -> list[Span]:
    """Return the spans in which runs waited for the lane and none was at work."""
    work, waits = _union(run.work for run in lane), _union(run.wait for run in lane)
    edges = [0.0, *(edge for span in work for edge in span), float("inf")]
    free = list(zip(edges[::2], edges[1::2], strict=True))
    return list(_intersection(free, waits))


def depths(lane: Sequence[Run]) -> list[tuple[float, int]]:
    """Return the moments at which a lane's queue changed, each with the queue's length from then on."""
    changes = Counter[float]()
    for run in lane:
        changes[run.wait[0]] += 1
        changes[run.wait[1]] -= 1
    steps, depth = [(0.0, 0)], 0
    for moment, change in sorted(changes.items()):
        depth += change
        steps.append((moment, depth))
    return steps


def _intersection(ones: Sequence[Span], others: Sequence[Span]) -> Iterator[Span]:
    """Yield the spans that both cover; each list is sorted and has no overlaps."""
    one = other = 0
    while one < len(ones) and other < len(others):
        yield from clip([ones[one]], others[other])
        if ones[one][1] < others[other][1]:
            one += 1
        else:
            other += 1


def _union(spans: Iterable[Span]) -> list[Span]:
    joined: list[Span] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        elif end > begin:
            joined.append((begin, end))
    return joined
