"""Reports of the current status, of batches, and of one batch in detail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from flows.errors import BatchUnknown
from flows.ledger.connection import Connection
from flows.ledger.locks import FENCE
from flows.ledger.named_sql import load, records
from flows.reports.files import Duplicate, duplicates

_sql = load("reports.sql")


class OpenRun(msgspec.Struct, frozen=True):
    """A stage run that waits for its gate or is at work; ``duration_sec`` is null while it waits."""

    stage: str
    batch_id: str
    attempt: int
    host: str
    pid: int
    queued_at: datetime
    started_at: datetime | None
    wait_sec: float
    duration_sec: float | None


class Lane(msgspec.Struct, frozen=True):
    """One stage: its limit, the runs at work, and the waiting runs in queue order.

    ``limit`` is null for a stage that is not exclusive if the Prefect server's limit is not known.
    """

    stage: str
    limit: int | None
    holders: list[OpenRun]
    queue: list[OpenRun]
    oldest_wait_sec: float


class ForeignHolder(msgspec.Struct, frozen=True):
    """A database session that holds the fence of a stage but is not a stage run."""

    stage: str
    pid: int
    user: str
    application: str


class Files(msgspec.Struct, frozen=True):
    """Numbers of source files by outcome; ``duplicates`` are arrivals of content received before.

    ``returned`` and ``dropped`` are quarantined files about which an operator has decided.
    """

    received: int
    stored: int
    partial: int
    quarantined: int
    returned: int
    dropped: int
    waiting: int
    duplicates: int


class Settling(msgspec.Struct, frozen=True):
    """An entry of the inbox that no run has received yet: a file, or a folder that is an unpacked export.

    ``is_open``: a process has it open for writing. ``is_complete``: the next run receives it as it is.
    Otherwise it is received when it has not changed for ``quiet_sec``; so far it is unchanged for
    ``unchanged_sec`` (null: not known).
    """

    name: str
    is_folder: bool
    is_open: bool
    is_complete: bool
    quiet_sec: float | None
    unchanged_sec: float | None


class PassedOver(msgspec.Struct, frozen=True):
    """An entry of the inbox that no run receives under its name, with the reason."""

    name: str
    reason: str


class Status(msgspec.Struct, frozen=True):
    """The whole installation at one moment, by the database's clock; ``held`` batches have a status, too.

    ``left`` is the number of entries that the last runs left in their folders. If this host has the inbox,
    ``settling`` has the first entries that are not received yet, ``settling_more`` is the number of others.
    ``passed_over`` has the first whose names are hidden or those of unfinished files, ``passed_over_all`` is
    the number of all. ``kept`` is the number of received originals that stay there for an hour, hidden.
    """

    at: datetime
    lanes: list[Lane]
    batches: dict[str, int]
    held: int
    files: Files
    left: int = 0
    settling: list[Settling] = []
    settling_more: int = 0
    passed_over: list[PassedOver] = []
    passed_over_all: int = 0
    kept: int = 0
    foreign_holders: list[ForeignHolder] = []


class BatchLine(msgspec.Struct, frozen=True):
    """One batch in a list of batches."""

    batch_id: str
    status: str
    file_count: int
    messages: int
    quarantined: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    extract_duration_sec: float | None
    convert_duration_sec: float | None
    store_duration_sec: float | None
    error_message: str | None
    held_at: datetime | None = None
    held_because: str | None = None


class BatchFile(msgspec.Struct, frozen=True):
    """One source file of a batch, with the status of SourceLine; ``error``: why it is not stored in full.

    ``new``, ``changed`` and ``known`` are those of its messages (null: not stored, or by release 0.1.0).
    """

    position: int
    id: int
    name: str
    size_bytes: int
    status: str
    stage: str | None
    error: str | None
    chats: int | None
    messages: int | None
    new: int | None
    changed: int | None
    known: int | None
    returned_at: datetime | None
    dropped_at: datetime | None


class StageRun(msgspec.Struct, frozen=True):
    """One attempt at one stage of a batch."""

    stage: str
    attempt: int
    outcome: str | None
    host: str
    pid: int
    queued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    wait_sec: float
    duration_sec: float | None
    files: int | None
    bytes_in: int | None
    error: str | None


class Rows(msgspec.Struct, frozen=True):
    """Messages of stored files: new, changed (another version than before), and known already."""

    new: int = 0
    changed: int = 0
    known: int = 0

    def __str__(self) -> str:
        """The numbers in words."""
        return f"{self.new:,} new, {self.changed:,} changed, {self.known:,} known"


def stored_rows(connection: Connection, batch_ids: Sequence[str]) -> Rows:
    """Return the message counts of the last completed stores of these batches."""
    return Rows(**_sql.stored_rows(connection, batch_ids=list(batch_ids)))


class BatchDetail(msgspec.Struct, frozen=True):
    """Everything that the ledger has about one batch; ``resumes_at`` is the first stage not completed.

    ``duplicates`` are later arrivals of the content of its files.
    """

    batch_id: str
    status: str
    file_count: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    error_message: str | None
    flow_run_id: str | None
    resumes_at: str | None
    files: list[BatchFile]
    stage_runs: list[StageRun]
    rows: Rows
    held_at: datetime | None = None
    held_because: str | None = None
    duplicates: list[Duplicate] = []


def clock(connection: Connection) -> datetime:
    """Return the database's time, which all times in the ledger are."""
    now: datetime = _sql.clock(connection)
    return now


def status(connection: Connection, limits: Mapping[str, int] | None = None) -> Status:
    """Return the lanes, the numbers of batches by status and of source files by outcome.

    ``limits`` maps stages to the limits of the Prefect server; an exclusive stage defaults to 1.
    """
    runs = records(_sql.open_runs(connection), OpenRun)
    lanes = [
        Lane(
            stage=row["stage"],
            limit=(limits or {}).get(row["stage"], 1 if row["exclusive"] else None),
            holders=[run for run in runs if run.stage == row["stage"] and run.started_at],
            queue=[run for run in runs if run.stage == row["stage"] and not run.started_at],
            oldest_wait_sec=row["oldest_wait_sec"],
        )
        for row in _sql.lanes(connection)
    ]
    return Status(
        at=clock(connection),
        lanes=lanes,
        batches={row["status"]: row["batches"] for row in _sql.batch_statuses(connection)},
        held=_sql.held_count(connection),
        files=Files(**_sql.file_counts(connection)),
        left=_sql.left_count(connection),
        foreign_holders=records(_sql.foreign_holders(connection, space=FENCE), ForeignHolder),
    )


def batches(
    connection: Connection,
    *,
    status: str | None = None,
    held: bool = False,
    since: datetime | None = None,
    limit: int = 50,
) -> list[BatchLine]:
    """Return at most ``limit`` batches, newest first: of one status, or only those that are held, or all."""
    rows = _sql.batches(connection, status=status, held=held, since=since, limit=limit)
    return records(rows, BatchLine)


def batch(connection: Connection, batch_id: str) -> BatchDetail:
    """Return one batch with its files and stage runs; raise BatchUnknown if it is not in the ledger."""
    row = _sql.batch(connection, batch_id=batch_id)
    if row is None:
        raise BatchUnknown(f"no batch {batch_id!r} in the ledger; `tdp batches` lists them")
    return BatchDetail(
        **row,
        files=records(_sql.batch_files(connection, batch_id=batch_id), BatchFile),
        stage_runs=records(_sql.batch_stage_runs(connection, batch_id=batch_id), StageRun),
        rows=stored_rows(connection, [batch_id]),
        duplicates=duplicates(connection, batch_id=batch_id),
    )
