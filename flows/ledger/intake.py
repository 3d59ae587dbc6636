"""Intake: a parent run claims new source files, cut into batches, and batches whose run died."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from uuid import UUID

from flows.ledger.locks import INTAKE
from flows.ledger.session import Session, fetch, fetch_one


@asynccontextmanager
async def planning(session: Session) -> AsyncIterator[datetime]:
    """Hold the intake lock: on all hosts, one run at a time reads an inbox, cuts batches or lists them.

    Yields the time at which it was acquired, by the database's clock.
    """
    await fetch(session, "lock_intake", space=INTAKE)
    try:
        yield (await fetch_one(session, "intake_moves"))["moved_at"]
    finally:
        await fetch(session, "unlock_intake", space=INTAKE)


async def known_sightings(session: Session, quiet_seconds: float, sightings: list[str]) -> dict[str, bool]:
    """Return those of these sightings that the ledger has.

    True: an earlier run received or left the file, or it has not changed for ``quiet_seconds``.
    """
    rows = await fetch(session, "known_sightings", sightings=sightings, quiet_seconds=quiet_seconds)
    return {row["sighting"]: row["is_quiet"] for row in rows}


async def frozen_batches(session: Session, flow_run_id: UUID) -> list[str]:
    """Return the batches that this run froze when it was planned; empty if its list is missing or
    incomplete."""
    rows = await fetch(session, "frozen_batches", flow_run_id=flow_run_id)
    return [row["batch_id"] for row in rows] if any(row["position"] >= 0 for row in rows) else []


async def freeze_batches(
    session: Session, flow_run_id: UUID, batch_size: int, since: datetime | None = None
) -> list[str]:
    """Cut the source files without a batch into batches of ``batch_size``, and freeze the run's list.

    With ``since``, only those that were received since then, and without batches of dead runs: the run was
    stopped while it received files, and its retry receives the others and completes the list.
    Uploaders take turns: see :func:`cut`.
    A source file whose stored file is missing is left out until its content arrives again. Unfinished batches
    of dead runs come first in the list. A retry of the run must process the same list in the same order,
    because Prefect matches the subflows of a retried run by their position only.
    """
    async with session.transaction():
        orphaned = [] if since else await fetch(session, "orphaned_batches")
        batches = [row["batch_id"] for row in orphaned]
        unbatched = await fetch(session, "unbatched_sources", since=since)
        sources = [
            (row["source_id"], row["uploader"]) for row in unbatched if Path(row["stored_path"]).is_file()
        ]
        for source_ids in cut(sources, batch_size):
            batch = await fetch_one(session, "create_batch", source_ids=source_ids)
            batches.append(batch["batch_id"])
        listed = await fetch(session, "frozen_batches", flow_run_id=flow_run_id)
        first = min([0, *(row["position"] for row in listed)]) - len(batches) if since else len(listed)
        if not since:
            await fetch(session, "end_list", flow_run_id=flow_run_id, listed=len(listed))
        for position, batch_id in enumerate(batches, first):
            await fetch(
                session, "freeze_batch", flow_run_id=flow_run_id, position=position, batch_id=batch_id
            )
    return [*(row["batch_id"] for row in listed), *batches]


def cut(sources: Iterable[tuple[int, int | None]], batch_size: int) -> list[list[int]]:
    """Cut sources, pairs of source id and uploader, into batches of ``batch_size``.

    Each batch begins with the next uploader's files; if these do not fill it, files of the uploaders after
    him do. So the 500 files of one uploader do not delay the 5 of another, and no batch but the last is
    smaller than it has to be.
    """
    waiting: dict[int | None, deque[int]] = {}
    for source_id, uploader in sources:
        waiting.setdefault(uploader, deque()).append(source_id)
    turns = deque(waiting.values())
    batches = []
    while turns:
        batch: list[int] = []
        for files in turns:
            while files and len(batch) < batch_size:
                batch.append(files.popleft())
        batches.append(batch)
        turns.rotate(-1)
        turns = deque(files for files in turns if files)
    return batches
