"""Totals over all stage runs ever, so that a restart of the monitor does not reset its counters.

PostgreSQL needs two seconds to read a million stage runs. A run that has ended does not change any more, so
it is read once; each scrape reads only the runs since the previous scrape.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flows.ledger.connection import Connection
from flows.monitor.health import sql

#: Stage runs read by one statement, so that it stays within the statement timeout.
_PAGE = 200_000


@dataclass
class Totals:
    """Totals of some stage runs; the keys of ``waits`` and ``durations`` are stage and bucket."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    lease_losses: Counter[str] = field(default_factory=Counter)
    waits: Counter[tuple[str, int]] = field(default_factory=Counter)
    wait_seconds: Counter[str] = field(default_factory=Counter)
    durations: Counter[tuple[str, int]] = field(default_factory=Counter)
    duration_seconds: Counter[str] = field(default_factory=Counter)
    overlaps: int = 0
    #: When the last run of each exclusive stage ended, by stage.
    ended: dict[str, datetime] = field(default_factory=dict)

    def add_runs(self, runs: Iterable[dict[str, Any]]) -> None:
        """Add the rows of ``run_counts``."""
        for row in runs:
            stage, count = row["stage"], row["runs"]
            if row["outcome"]:
                self.outcomes[stage, row["outcome"]] += count
            self.lease_losses[stage] += count if row["lease_lost"] else 0
            if row["wait_bucket"] is not None:
                self.waits[stage, row["wait_bucket"]] += count
                self.wait_seconds[stage] += row["wait_sec"]
            if row["duration_bucket"] is not None:
                self.durations[stage, row["duration_bucket"]] += count
                self.duration_seconds[stage] += row["duration_sec"]

    def add_overlaps(self, overlaps: Iterable[dict[str, Any]]) -> None:
        """Add the rows of ``overlap_counts``."""
        for row in overlaps:
            self.overlaps += row["overlaps"]
            if row["ended"] is not None:
                self.ended[row["stage"]] = max(row["ended"], self.ended.get(row["stage"], row["ended"]))


class History:
    """The totals of one ledger; ``bounds`` are the upper bounds of the buckets in seconds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """Start with empty totals."""
        self._bounds = list(bounds)
        self._settled = Totals()
        self._upto = 0
        self._before: datetime | None = None

    def read(self, ledger: Connection) -> Totals:
        """Return the totals of all stage runs up to now. Not thread-safe."""
        settled = sql.settled(ledger)
        while self._upto < settled["upto"]:
            page = min(settled["upto"], self._upto + _PAGE)
            self._settled.add_runs(self._runs(ledger, page))
            self._upto = page
        self._settled.add_overlaps(self._overlaps(ledger, settled["before"]))
        self._before = settled["before"]
        totals = copy.deepcopy(self._settled)
        totals.add_runs(self._runs(ledger, None))
        totals.add_overlaps(self._overlaps(ledger, None))
        return totals

    def _runs(self, ledger: Connection, upto: int | None) -> list[Any]:
        """Return counts of the runs after the settled ones, up to the id ``upto`` or to the last run."""
        return list(sql.run_counts(ledger, after=self._upto, upto=upto, bounds=self._bounds))

    def _overlaps(self, ledger: Connection, before: datetime | None) -> list[Any]:
        """Return overlaps of the runs started after the settled ones, up to ``before`` or until now."""
        ended = self._settled.ended
        span = {"since": self._before, "before": before}
        return list(sql.overlap_counts(ledger, **span, stages=list(ended), ends=list(ended.values())))
