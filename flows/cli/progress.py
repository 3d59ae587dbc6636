"""The progress of one run of a parent flow: its own batches, and an estimate of the time left."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import msgspec

from flows.ledger.connection import Connection
from flows.ledger.named_sql import load
from flows.reports import text

_sql = load("reports.sql")


class Progress(msgspec.Struct, frozen=True):
    """Batches of one run; ``elapsed_sec`` is since it listed them."""

    batches: int
    completed: int
    failed: int
    working: int
    held: int
    elapsed_sec: float

    @property
    def seconds_left(self) -> float | None:
        """The estimate: the remaining batches take as long on average as those that ended; None before."""
        ended = self.completed + self.failed
        left = self.batches - ended - self.held
        return left * self.elapsed_sec / ended if ended else None

    def __str__(self) -> str:
        """The progress in one line."""
        parts = [f"{self.completed:,} of {text.count(self.batches, 'batch', 'batches')} completed"]
        parts += [f"{self.failed:,} failed"] if self.failed else []
        parts += [f"{self.working:,} in progress"] if self.working else []
        parts += [f"{self.held:,} held"] if self.held else []
        left = self.seconds_left
        return ", ".join(parts) + (f"; about {text.seconds(left)} left" if left else "")


def progress(ledger: Connection, flow_run_id: UUID | None) -> Progress | None:
    """Return the progress of a run; None before it has listed its batches."""
    if flow_run_id is None:
        return None
    row = _sql.run_progress(ledger, flow_run_id=str(flow_run_id))
    return msgspec.convert(dict(row), Progress) if row["batches"] else None


def read_run_id(outcome: Path) -> UUID | None:
    """Return the id of the flow run, which its process writes next to ``outcome``; None before."""
    try:
        return UUID(run_id_file(outcome).read_text())
    except (FileNotFoundError, ValueError):
        return None


def run_id_file(outcome: Path) -> Path:
    """Return the path of the file with the id of the flow run."""
    return outcome.with_name("flow-run-id")
