"""How a parent run ends: its state has the outcomes of its files, its log each file that was not stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from prefect.states import Completed

from flows.batches.decoration import report_failure
from flows.batches.fan_out import Outcomes
from flows.batches.receiving import Arrival, Received
from flows.batches.source_file import decodable
from flows.batches.stopping import has_retry
from flows.domain import Log
from flows.errors import BatchesFailed
from flows.ledger.owner import Owner
from flows.reports import text
from flows.reports.visible import visible

#: Files not stored in full that the log names; the ledger has all of them.
_MAX_LOGGED = 1000
#: Batches that the state's message names; the artifact lists all failed ones.
_MAX_NAMED = 20


async def conclude(
    owner: Owner,
    batches: list[str],
    outcomes: Outcomes,
    log: Log,
    skipped: Sequence[str] = (),
    received: Received | None = None,
) -> Any:
    """Log each file that was not stored in full; return the run's state, for the flow to return.

    ``batches`` is the run's list; ``skipped`` names batches that were asked for but are not in it,
    ``received`` is what a run of the inbox has received. Raises BatchesFailed if some of the batches failed.
    """
    done = await _files(owner, outcomes.completed, log) if outcomes.completed else ""
    nothing = "" if batches else "no files to process"
    received = received or Received()
    for path in [path for path, (batch_id, _) in received.unstored.items() if batch_id in outcomes.completed]:
        del received.unstored[path]  # this run has done it
    files = "; ".join(filter(None, (done, nothing, *_intake(received))))
    ways = "`tdp resume`, Retry or `tdp backfill`" if has_retry() else "`tdp resume` or `tdp backfill`"
    left = [
        f"left to another run: {_named(outcomes.busy)}" if outcomes.busy else "",
        f"held: {_named(outcomes.held)} ({ways} continues)" if outcomes.held else "",
        f"skipped, because they do not match the other filters: {_named(skipped)}" if skipped else "",
    ]
    for part in filter(None, left):
        log.warning("%s", part.capitalize())
    rest = "; ".join(filter(None, (files, *left)))
    if outcomes.failed:
        named = _named([f"{batch_id} ({error})" for batch_id, error in outcomes.failed.items()], "; ")
        raise BatchesFailed(
            f"{len(outcomes.failed)} of {len(batches)} batches failed: {named}{rest and '; '}{rest}"
        )
    counts = {"batches": len(batches), "completed": len(outcomes.completed), "busy": len(outcomes.busy)}
    if received.unstored:
        counts["unstored"] = len(received.unstored)
    return Completed(message=rest, data=counts)


def _intake(received: Received) -> list[str]:
    """Return what else a state says of the files of a folder, beside those that are in batches."""
    duplicates, known = received.counts[Arrival.DUPLICATE], received.counts[Arrival.KNOWN]
    unstored = [f"{_names([path])} ({': '.join(why)})" for path, why in received.unstored.items()]
    parts = {
        text.count(duplicates, "duplicate", "duplicates"): duplicates,
        f"{known:,} received before": known,
        f"not stored in full by an earlier run: {_named(unstored)}": len(unstored),
        f"not received: {_names(received.failed)}": len(received.failed),
        f"still being written: {_names(received.later)}": len(set(received.later) - received.failed.keys()),
    }
    return [part for part, number in parts.items() if number]


def _names(paths: Iterable[Path]) -> str:
    return _named([visible(decodable(path.name)) for path in sorted(paths)])


async def _files(owner: Owner, completed: list[str], log: Log) -> str:
    """Return the numbers of files of these batches by outcome, and log each that was not stored in full."""
    (totals,) = await owner.fetch("batch_totals", batch_ids=completed)
    rows = await owner.fetch("incomplete_files", batch_ids=completed, limit=_MAX_LOGGED)
    reasons = []
    for row in rows:
        how = "quarantined" if row["status"] == "QUARANTINED" else "stored in part"
        log.warning("%s  batch_id=%s was %s: %s", row["name"], row["batch_id"], how, row["error"])
        reasons.append(f"{row['name']} ({row['batch_id']}) was {how}: {row['error']}")
    if reasons:
        report_failure("file_quarantined", _named(reasons, "; "))
    if (more := totals["partial"] + totals["quarantined"] - len(rows)) > 0:
        log.warning("and %d more files; `tdp show BATCH` lists the files of a batch", more)
    counts = {"stored": "stored", "partial": "in part", "quarantined": "quarantined", "dropped": "dropped"}
    named = [f"{totals[name]} {word}" for name, word in counts.items() if totals[name] or name == "stored"]
    return ", ".join(named)


def _named(items: Sequence[str], separator: str = ", ") -> str:
    more = f" and {len(items) - _MAX_NAMED} more" if len(items) > _MAX_NAMED else ""
    return separator.join(items[:_MAX_NAMED]) + more
