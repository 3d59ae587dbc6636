"""Return quarantined source files to an operator under their own names, or drop them.

Retention keeps a quarantined file until one of the two was done.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from itertools import count
from pathlib import Path
from typing import BinaryIO

import msgspec
from psycopg.rows import DictRow

from flows.errors import FileUnavailable, FolderRefused
from flows.ledger.intake import planning
from flows.ledger.session import Session, connect, fetch
from flows.reports import text
from flows.settings import Settings

_CHUNK = 1 << 20


class Decided(msgspec.Struct, frozen=True):
    """A source file that was returned to ``path``, or dropped, or left as it was (``unchanged``: why)."""

    id: int
    name: str
    path: str | None = None
    unchanged: str | None = None


async def return_files(
    settings: Settings, ids: Sequence[int] | None, directory: Path
) -> AsyncIterator[Decided]:
    """Copy source files into ``directory`` under their own names; None: all quarantined, not yet returned.

    A name that is in use there gets a number; no file is overwritten. The stored file stays until its
    retention time, which starts now. Yields each file when it is returned.

    Raises FolderRefused if the directory is one of this installation, whose inbox would receive them again.
    Raises FileUnavailable, before anything is copied if the ledger does not have one of the files or it was
    removed; at a later error, the files yielded before are returned and the others are not.
    """
    _ensure_outside(settings, directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise FileUnavailable(f"{directory} is not a folder") from None
    async with await connect(settings.database, "tdp files return", patience=0) as session:
        chosen = await _chosen(session, ids)
        for row in chosen:
            if row["purged_at"]:
                raise FileUnavailable(f"{_named(row)} was {_end(row)}")
        for row in chosen:
            if ids is None and row["outcome"] == "RETURNED":
                continue
            path = await asyncio.to_thread(_copy, row, directory)
            await fetch(session, "mark_returned", source_id=row["source_id"])
            yield Decided(row["source_id"], row["name"], str(path))


async def droppable(settings: Settings, ids: Sequence[int] | None) -> list[Decided]:
    """Return the files that :func:`drop_files` would drop; None: all quarantined, returned ones included.

    Of all, those that cannot be dropped now are ``unchanged``. Raises FileUnavailable if one of ``ids``
    cannot be dropped.
    """
    async with await connect(settings.database, "tdp files drop", patience=0) as session:
        return _to_drop(await _chosen(session, ids), every=ids is None)


async def drop_files(settings: Settings, ids: Sequence[int]) -> list[Decided]:
    """Remove quarantined source files from the directory of sources.

    Raises FileUnavailable: before anything is removed if one of them is not quarantined, was dropped before,
    or is needed by a run; after all of them are dropped if a stored file cannot be removed.
    """
    async with (
        await connect(settings.database, "tdp files drop", patience=0) as session,
        planning(session),  # no backfill can list batches now
    ):
        chosen = await _chosen(session, ids)
        done = _to_drop(chosen, every=False)
        await fetch(session, "drop_sources", ids=[row["source_id"] for row in chosen])
        if failed := await asyncio.to_thread(_remove, [row["stored_path"] for row in chosen]):
            raise FileUnavailable(
                f"{text.count(len(done), 'file is', 'files are')} dropped, but not all could be removed;"
                " maintain/scheduled tries again for a week:",
                *failed,
            )
    return done


def _ensure_outside(settings: Settings, directory: Path) -> None:
    if settings.owns(directory) or directory.resolve().is_relative_to(settings.inbox.resolve()):
        raise FolderRefused(f"{directory} belongs to this installation: name another folder")


async def _chosen(session: Session, ids: Sequence[int] | None) -> Sequence[DictRow]:
    chosen = await fetch(session, "chosen_sources", ids=None if ids is None else list(ids))
    if unknown := set(ids or ()) - {row["source_id"] for row in chosen}:
        numbers = ", ".join(map(str, sorted(unknown)))
        raise FileUnavailable(f"no source file with the id {numbers}; `tdp files` lists them")
    return chosen


def _to_drop(chosen: Sequence[DictRow], *, every: bool) -> list[Decided]:
    found = []
    for row in chosen:
        why = row["needed_by"]
        if row["outcome"] == "DROPPED":
            why = f"it was {_end(row)}"
        elif row["status"] != "QUARANTINED":
            why = f"only quarantined files are dropped, and it is {row['outcome']}"
        if why and not every:
            raise FileUnavailable(f"{_named(row)}: {why}")
        found.append(Decided(row["source_id"], row["name"], unchanged=why))
    return found


def _named(row: DictRow) -> str:
    return f"{row['source_id']} ({row['name']})"


def _end(row: DictRow) -> str:
    how, moment = ("dropped", row["dropped_at"]) if row["dropped_at"] else ("removed", row["purged_at"])
    return f"{how} on {moment.astimezone():%Y-%m-%d %H:%M %Z}"


def _remove(paths: Sequence[str]) -> list[str]:
    """Remove stored files; return the errors."""
    errors = []
    for path in paths:
        try:
            Path(path).unlink(missing_ok=True)
        except OSError as error:
            errors.append(f"{path}: {error.strerror}")
    return errors


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
                    raise FileUnavailable(f"{_named(row)} is not returned: its stored file is damaged")
                times = os.fstat(stored.fileno())
                os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            except BaseException:
                path.unlink()
                raise
    except OSError as error:
        why = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        raise FileUnavailable(f"{_named(row)} is not returned: {why}") from error
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
