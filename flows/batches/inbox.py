"""Take source files out of an inbox: each content once, whole, and never lost on the way.

The order makes every crash harmless: the ledger learns of a file first, then the file moves into the store of
sources. A file that stands in both places, or in the ledger alone, is found again at the next look.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from flows.ledger.session import Session, fetch, fetch_one

if TYPE_CHECKING:
    from psycopg.rows import DictRow

#: What copying tools call a file they have not finished.
_UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".download", ".filepart")


async def settled_files(inbox: Path, settle_seconds: float) -> list[Path]:
    """Return the files of ``inbox`` that nobody is still writing, oldest first.

    Files changed within ``settle_seconds`` are looked at again after as long. Left for another time: those
    that changed meanwhile, that some process of this host has open for writing, and hidden or unfinished
    names. Directories are not entered.
    """
    files = _look(inbox)
    newest = time.time_ns() - settle_seconds * 1e9
    if any(changed > newest for changed, _ in files.values()):
        await asyncio.sleep(settle_seconds)
        later = _look(inbox)
        files = {path: seen for path, seen in files.items() if later.get(path) == seen}
    ready = [path for path in files if not _open_for_writing(path)]
    return sorted(ready, key=lambda path: (files[path], path.name))


def _look(inbox: Path) -> dict[Path, tuple[int, int]]:
    """Return time of change (ns) and size of every file that could be taken."""
    files = {}
    with os.scandir(inbox) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # somebody else was quicker
                if not _is_unfinished(entry.name) and entry.is_file(follow_symlinks=False):
                    seen = entry.stat()
                    files[Path(entry.path)] = (seen.st_mtime_ns, seen.st_size)
    return files


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") or name.lower().endswith(_UNFINISHED)


async def receive(session: Session, path: Path, sources: Path) -> str | None:
    """Record the file at ``path`` and move it under ``sources``.

    Return ``new``, or ``duplicate`` for a content the ledger knows (the file is removed, unless its content
    is past retention: then it is kept anew, for a backfill to read), or None if the file changed or vanished
    meanwhile and is left for the next look.
    """
    with contextlib.suppress(FileNotFoundError):
        before = path.stat()
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            return None
        async with session.transaction():
            source, duplicate = await _record(session, path, sources, sha256, after.st_size)
        stored = Path(source["stored_path"])
        if duplicate and stored.exists():
            path.unlink()
        else:
            _move(path, stored)
        return "duplicate" if duplicate else "new"
    return None


async def _record(
    session: Session, path: Path, sources: Path, sha256: str, size: int
) -> tuple[DictRow, bool]:
    source = await fetch_one(
        session,
        "receive_source",
        sha256=sha256,
        name=_readable(path.name),
        size_bytes=size,
        stored_path=str(sources / sha256[:2] / sha256),
    )
    # Known to the ledger alone: an earlier look died before it moved the file.
    unmoved = source["purged_at"] is None and not Path(source["stored_path"]).exists()
    duplicate = not source["is_new"] and not unmoved
    if source["purged_at"] is not None:
        await fetch(session, "keep_again", source_id=source["source_id"])
    if source["is_new"] or duplicate:
        origin = _readable(str(path))
        await fetch(
            session, "record_receipt", source_id=source["source_id"], origin=origin, duplicate=duplicate
        )
    return source, duplicate


def _move(path: Path, stored: Path) -> None:
    """Move a file in one step, across file systems too."""
    stored.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        path.rename(stored)
    except OSError:  # another file system: copy whole, then take its name
        copy = stored.with_name(f".{stored.name}.partial")
        shutil.copyfile(path, copy)
        with copy.open("rb+") as file:
            os.fsync(file.fileno())
        copy.rename(stored)
        path.unlink()
    with contextlib.suppress(PermissionError):  # another user's file; the folder lets nobody else in
        stored.chmod(0o600)


def _open_for_writing(path: Path) -> bool:
    """Tell whether a process of this host has the file open for writing (on Linux; else False)."""
    if sys.platform != "linux":
        return False
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False  # gone, or not ours to read: taking it will tell
    try:
        # A read lease is refused while there is a writer. A writer that comes while we hold it would be
        # announced by SIGIO, which kills; SIGURG does nothing.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False  # not our file, or a file system without leases
    finally:
        os.close(fd)
    return False


def _readable(name: str) -> str:
    """Return a file name as text that PostgreSQL takes, whatever bytes it is made of."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\0", "\ufffd")
