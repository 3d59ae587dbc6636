"""Reports of source files across batches, and of what runs left in their folders."""

from __future__ import annotations

from datetime import datetime

import msgspec

from flows.ledger.connection import Connection
from flows.ledger.named_sql import load, records

_sql = load("reports.sql")


class SourceLine(msgspec.Struct, frozen=True):
    """One source file: ``origin`` is the path it was received from, ``reason`` why it is not stored whole.

    ``status`` is WAITING, STORED, PARTIAL, QUARANTINED, or, of a quarantined file about which an operator has
    decided, RETURNED or DROPPED.
    """

    id: int
    batch_id: str | None
    status: str
    name: str
    size_bytes: int
    stage: str | None
    reason: str | None
    origin: str | None
    received_at: datetime
    returned_at: datetime | None
    dropped_at: datetime | None
    purged_at: datetime | None


class LeftFile(msgspec.Struct, frozen=True):
    """An entry that the last run left in its folder; ``is_error``: it could not be received."""

    folder: str
    name: str
    reason: str
    is_error: bool
    noticed_at: datetime


class Duplicate(msgspec.Struct, frozen=True):
    """An arrival of content that had been received before: in ``batch_id`` under the name ``same_as``.

    ``status`` is the outcome of that file; ``batch_id`` is null until it is in a batch.
    """

    name: str
    origin: str
    received_at: datetime
    same_as_id: int
    same_as: str
    batch_id: str | None
    status: str


def source_files(connection: Connection, *, status: str | None = None, limit: int = 100) -> list[SourceLine]:
    """Return source files of one status or of all, newest first, at most ``limit``."""
    return records(_sql.source_lines(connection, status=status, limit=limit), SourceLine)


def duplicates(
    connection: Connection,
    *,
    since: datetime | None = None,
    folder: str | None = None,
    batch_id: str | None = None,
) -> list[Duplicate]:
    """Return duplicates in the order received: since a time, from a folder, or of the files of a batch."""
    rows = _sql.duplicates(connection, since=since, folder=folder, batch_id=batch_id)
    return records(rows, Duplicate)


def left_files(connection: Connection, folder: str | None = None) -> list[LeftFile]:
    """Return what was left in ``folder``, or in every folder."""
    return records(_sql.left_in_folder(connection, folder=folder), LeftFile)
