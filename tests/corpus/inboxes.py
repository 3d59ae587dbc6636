"""Files in an inbox, and their expected outcomes."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

from flows.batches.inbox import look
from flows.batches.receiving import Arrival, Intake, Received
from flows.ledger.intake import known_sightings
from flows.ledger.session import Session

LOG = logging.getLogger("test")
#: A user that owns nothing here and has no capabilities.
NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")


def drop(inbox: Path, name: str, content: str = "", age: float = 60.0) -> Path:
    path = inbox / name
    path.write_text(content or name)
    os.utime(path, (time.time() - age,) * 2)
    return path


def intake(session: Session, inbox: Path, *, move: bool = True) -> Intake:
    return Intake(session, inbox.parent / "sources", LOG, move=move)


async def take(session: Session, inbox: Path, *, move: bool = True, quiet: float = 0) -> Received:
    """Receive what is in the inbox now."""
    found = await look(inbox, 0, quiet, lambda seen: known_sightings(session, quiet, seen))
    return await intake(session, inbox, move=move).receive_all(inbox, found)


async def receive(session: Session, path: Path) -> Arrival | None:
    """Receive one file of an inbox; None if the look did not find it complete."""
    found = await look(path.parent, 0, 0)
    for candidate in found.files:
        if candidate.path == path:
            return (await intake(session, path.parent).receive(candidate))[0]
    return None


async def rows(session: Session, statement: str) -> list[tuple[object, ...]]:
    cursor = await session.execute(statement.encode())
    return [tuple(row.values()) for row in await cursor.fetchall()]


async def sources(session: Session) -> list[str]:
    """Return the contents of the recorded sources as they are on the disk."""
    stored = await rows(session, "SELECT stored_path FROM source_files ORDER BY source_id")
    return [Path(str(path)).read_text() for (path,) in stored]
