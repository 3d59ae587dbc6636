"""Return quarantined source files to an operator under their own names, or drop them.

Retention keeps a quarantined file until one of the two was done.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import BinaryIO

import msgspec
from psycopg.rows import DictRow

from flows.errors import FileUnavailable
from flows.ledger.intake import planning
from flows.ledger.session import connect, fetch
from flows.settings import Settings

_CHUNK = 1 << 20


class Returned(msgspec.Struct, frozen=True):
    """A source file that was returned (``path`` is its copy) or dropped (``path`` is None)."""

    id: int
    name: str
    path: str | None = None


async def return_files(settings: Settings, ids: Sequence[int] | None, directory: Path) -> list[Returned]:
    """Copy source files into ``directory`` under their own names; None: all quarantined, not yet returned.

    A name that is in use there gets a number; no file is overwritten. The stored file stays until its
    retention time, which starts now. Raises FileUnavailable before anything is copied if the ledger does not
    have one of the files, or it was purged.
    """
    directory.mkdir(parents=True, exist_ok=True)
    done = []
    async with await connect(settings.database, "tdp files return", patience=0) as session:
        chosen = await fetch(session, "chosen_sources", ids=None if ids is None else list(ids))
        _check(ids, chosen)
        for row in chosen:
            if ids is None and row["returned_at"]:
                continue
            path = await asyncio.to_thread(_copy, row, directory)
            await fetch(session, "mark_returned", source_id=row["source_id"])
            done.append(Returned(row["source_id"], row["name"], str(path)))
    return done


async def drop_files(settings: Settings, ids: Sequence[int] | None) -> list[Returned]:
    """Remove quarantined source files from the directory of sources; None: all quarantined.

    Raises FileUnavailable before anything is removed if one of them is not quarantined, or was purged.
    """
    async with (
        await connect(settings.database, "tdp files drop", patience=0) as session,
        planning(session),  # no backfill can list batches now
    ):
        chosen = await fetch(session, "chosen_sources", ids=None if ids is None else list(ids))
        _check(ids, chosen)
        for row in chosen:
            if row["is_busy"] or row["status"] != "QUARANTINED":
                why = (
                    "its batch is being processed" if row["is_busy"] else "only quarantined files are dropped"
                )
                raise FileUnavailable(f"{row['source_id']} ({row['name']}): {why}")
        await fetch(session, "drop_sources", ids=[row["source_id"] for row in chosen])
        for row in chosen:
            Path(row["stored_path"]).unlink(missing_ok=True)
    return [Returned(row["source_id"], row["name"]) for row in chosen]


def _check(ids: Sequence[int] | None, chosen: Sequence[DictRow]) -> None:
    if unknown := set(ids or ()) - {row["source_id"] for row in chosen}:
        numbers = ", ".join(map(str, sorted(unknown)))
        raise FileUnavailable(f"no source file with the id {numbers}; `tdp files` lists them")
    for row in chosen:
        if row["purged_at"]:
            when = f"{row['purged_at'].astimezone():%Y-%m-%d %H:%M}"
            raise FileUnavailable(f"{row['source_id']} ({row['name']}) was removed on {when}")


def _copy(row: DictRow, directory: Path) -> Path:
    try:
        with Path(row["stored_path"]).open("rb") as stored:
            path, copy = _create(directory, Path(row["name"]).name or f"source {row['source_id']}")
            try:
                with copy:
                    digest = hashlib.sha256()
                    while chunk := stored.read(_CHUNK):
                        digest.update(chunk)
                        copy.write(chunk)
                    copy.flush()
                    os.fsync(copy.fileno())
                if digest.hexdigest() != row["sha256"]:
                    raise FileUnavailable(f"{row['source_id']} ({row['name']}): its stored file is damaged")
                times = os.fstat(stored.fileno())
                os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            except BaseException:
                path.unlink()
                raise
    except OSError as error:
        raise FileUnavailable(f"{row['source_id']} ({row['name']}): {error}") from error
    return path


def _create(directory: Path, name: str) -> tuple[Path, BinaryIO]:
    own = Path(name)
    for number in count(1):
        path = directory / (name if number == 1 else f"{own.stem} ({number}){own.suffix}")
        try:
            return path, path.open("xb")
        except FileExistsError:
            continue
    raise AssertionError  # count() does not end
