"""The folder of `tdp run`, and the entries of the inbox that were not received, for `tdp status`."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import msgspec
import typer

from flows.batches.inbox import ensure_foreign, passed_over, scan, writers_at
from flows.batches.kept import kept_in
from flows.batches.source_file import Writers, decodable
from flows.errors import ServiceFailed
from flows.ledger.connection import Connection
from flows.ledger.named_sql import load
from flows.reports import PassedOver, Settling, Status
from flows.reports.prefect_api import request
from flows.settings import Settings

_sql = load("reports.sql")
#: Most entries that are named. If there are more than ``_MOST``, none is examined, because that would take
#: long.
_NAMED, _MOST = 8, 1000
_BLOCK = "/api/block_types/slug/tdp-pipeline/block_documents/name/tdp"


def source_folder(path: Path | None) -> Path | None:
    """Return the folder that is to be processed. Raises BadParameter if it is a file, or FolderRefused."""
    if path and not path.is_dir():
        raise typer.BadParameter(f"{path} is a file: name its folder, or copy it into the inbox")
    if path:
        ensure_foreign(path, Settings())
    return path


def with_inbox(now: Status, ledger: Connection, settings: Settings) -> Status:
    """Return ``now`` with the entries of the inbox that settle, as far as this user may read it."""
    with suppress(OSError):
        entries = sum(1 for _ in settings.inbox.iterdir())
        if entries > _MOST:
            return msgspec.structs.replace(now, settling_more=entries)
        waiting = _waiting(ledger, settings.inbox)
        quiet, settle = _seconds_of_block(settings) if waiting else (None, None)
        settle = settings.settle_seconds if settle is None else settle
        named = [_settling(*each, quiet, settle) for each in waiting[:_NAMED]]
        over = sorted(passed_over(settings.inbox).items())
        return msgspec.structs.replace(
            now,
            settling=named,
            settling_more=len(waiting) - len(named),
            passed_over=[PassedOver(decodable(path.name), reason) for path, reason in over[:_NAMED]],
            passed_over_all=len(over),
            kept=len(kept_in(settings.inbox)),
        )
    return now


def _waiting(ledger: Connection, inbox: Path) -> list[tuple[Path, float | None, float]]:
    """Return the entries that no run has received or left, oldest first.

    Each has the seconds for which it is unchanged (None: not known) and those since its last change. Raises
    OSError if the inbox does not exist or may not be read.
    """
    files, _ = scan(inbox)
    rows = _sql.settling(ledger, sightings=[seen.sighting for seen in files.values()])
    new = {row["sighting"]: row["unchanged_sec"] for row in rows if not row["is_known"]}
    now = time.time()
    found = [
        (path, new[seen.sighting], now - seen.mtime_ns / 1e9)
        for path, seen in files.items()
        if seen.sighting in new
    ]
    return sorted(found, key=lambda each: -each[2])


def _settling(
    path: Path, unchanged: float | None, since_change: float, quiet: float | None, settle: float
) -> Settling:
    writers = writers_at(path)
    is_unsure = writers is Writers.UNKNOWN
    is_quiet = quiet is not None and unchanged is not None and unchanged >= quiet
    if writers is Writers.NONE and 0 <= since_change < settle:  # it may be appended to, and closed between
        return Settling(decodable(path.name), path.is_dir(), False, False, settle, since_change)
    return Settling(
        name=decodable(path.name),
        is_folder=path.is_dir(),
        is_open=writers is Writers.SOME,
        is_complete=writers is Writers.NONE or (is_unsure and is_quiet),
        quiet_sec=quiet if is_unsure else None,
        unchanged_sec=unchanged if is_unsure else None,
    )


def _seconds_of_block(settings: Settings) -> tuple[float | None, float | None]:
    """Return *Quiet time* and *Settle time* of the block; None if the Prefect server does not respond."""
    with suppress(ServiceFailed):
        data = msgspec.json.decode(request(settings, "GET", _BLOCK))["data"]
        quiet, settle = (
            float(data[key]) if key in data else None for key in ("quiet_seconds", "settle_seconds")
        )
        return quiet, settle
    return None, None
