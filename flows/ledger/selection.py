"""The batches of a backfill: selected, listed under its flow run id, prepared one by one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from uuid import UUID

from psycopg.rows import DictRow

from flows.errors import BatchUnknown, NothingChosen
from flows.ledger.intake import planning
from flows.ledger.owner import own_run
from flows.ledger.session import Session, fetch

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Filters:
    """Filters that a batch must all match; None matches every batch. Days are in UTC, both ends included.

    ``source`` is a source file's SHA-256 or a pattern for its name (``*`` and ``?``). ``error`` is a text
    in the error of the batch or of one of its files. One matching source file is enough.
    """

    batch_ids: Sequence[str] | None = None
    status: str | None = None
    received_from: date | None = None
    received_to: date | None = None
    processed_from: date | None = None
    processed_to: date | None = None
    source: str | None = None
    error: str | None = None


async def select_batches(session: Session, filters: Filters, *, may_be_empty: bool = False) -> list[str]:
    """Return the batches that match ``filters``, oldest first.

    Raises NothingChosen if no filter is set or, unless the list ``may_be_empty``, no batch matches;
    BatchUnknown if an id is not in the ledger.
    """
    given = asdict(filters)
    if all(value is None for value in given.values()):
        raise NothingChosen("no filter: choose batches by id, status, dates, source file or error")
    source = given.pop("source")
    is_hash = source is not None and _SHA256.fullmatch(source)
    given["sha256"] = source.lower() if is_hash else None
    given["name_like"] = _like(source) if source and not is_hash else None
    given["batch_ids"] = list(filters.batch_ids) if filters.batch_ids is not None else None
    await _ensure_known(session, given["batch_ids"] or [])
    chosen = [row["batch_id"] for row in await fetch(session, "select_batches", **given)]
    if not chosen and not may_be_empty:
        raise NothingChosen("no batch matches all filters; `tdp batches` lists the batches")
    return chosen


async def _ensure_known(session: Session, batch_ids: Sequence[str]) -> None:
    known = {row["batch_id"] for row in await fetch(session, "statuses_of", batch_ids=batch_ids)}
    if unknown := sorted(set(batch_ids) - known):
        raise BatchUnknown(f"not in the ledger: {', '.join(unknown)}; `tdp batches` lists the batches")


async def list_batches(session: Session, flow_run_id: UUID, filters: Filters, from_stage: str) -> None:
    """List the selected batches under the backfill's flow run id; the order is final."""
    async with planning(session):  # no source file may be purged between selecting and listing
        chosen = await select_batches(session, filters)
        await fetch(session, "list_batches", flow_run_id=flow_run_id, batch_ids=chosen, from_stage=from_stage)
        await fetch(session, "resume_listed", flow_run_id=flow_run_id)


async def adopt_batches(session: Session, flow_run_id: UUID, earlier: UUID, database_url: str) -> None:
    """List the batches that the backfill ``earlier`` did not complete. Raises BatchBusy if it is alive."""
    async with own_run(earlier, database_url), planning(session):
        await fetch(session, "adopt_batches", flow_run_id=flow_run_id, earlier=earlier)
        await fetch(session, "resume_listed", flow_run_id=flow_run_id)


async def listed_batches(session: Session, flow_run_id: UUID) -> list[DictRow]:
    """Return batch_id, from_stage, prepared_at and listed_at of a backfill's batches in order."""
    return await fetch(session, "listed_batches", flow_run_id=flow_run_id)


async def requeue_prepared(session: Session, flow_run_id: UUID, batch_id: str, kept: Sequence[str]) -> None:
    """Re-queue the batch for the first stage after those ``kept``, in one transaction."""
    async with session.transaction():
        await fetch(session, "reset_later_files", batch_id=batch_id, kept=list(kept))
        await fetch(session, "requeue_batch", batch_id=batch_id)
        await fetch(session, "mark_prepared", flow_run_id=flow_run_id, batch_id=batch_id)


def _like(pattern: str) -> str:
    """Return a file name pattern (``*``, ``?``) as a LIKE pattern."""
    literal = re.sub(r"([\\%_])", r"\\\1", pattern)
    return literal.replace("*", "%").replace("?", "_")
