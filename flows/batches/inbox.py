"""Receive source files from an inbox: each content once, complete, and never lost.

The order makes every crash harmless: a file is recorded in the ledger first, then moved into the directory of
sources. After a crash in between, the file is still in the inbox, and the next run receives it.
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

#: Suffixes that copying tools and browsers give to unfinished files.
_UNFINISHED_SUFFIXES = (".part", ".partial", ".tmp", ".crdownload", ".download", ".filepart")


async def settled_files(inbox: Path, settle_seconds: float) -> list[Path]:
    """Return the files of ``inbox`` that are complete, oldest first.

    If a file changed within the last ``settle_seconds``, all files are checked again after that time. Skipped
    until a later call: files that changed between the checks, and files that a process on this host has open
    for writing. Ignored: hidden files, names of unfinished files, and directories.
    """
    files = _scan(inbox)
    newest = time.time_ns() - settle_seconds * 1e9
    if any(changed > newest for changed, _ in files.values()):
        await asyncio.sleep(settle_seconds)
        later = _scan(inbox)
        files = {path: seen for path, seen in files.items() if later.get(path) == seen}
    ready = [path for path in files if not _open_for_writing(path)]
    return sorted(ready, key=lambda path: (files[path], path.name))


def _scan(inbox: Path) -> dict[Path, tuple[int, int]]:
    """Return the modification time (ns) and size of every file that may be received."""
    files = {}
    with os.scandir(inbox) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # removed since the directory was read
                if not _is_unfinished(entry.name) and entry.is_file(follow_symlinks=False):
                    seen = entry.stat()
                    files[Path(entry.path)] = (seen.st_mtime_ns, seen.st_size)
    return files


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") or name.lower().endswith(_UNFINISHED_SUFFIXES)


async def receive(session: Session, path: Path, sources: Path) -> str | None:
    """Record the file at ``path`` in the ledger and move it into ``sources``.

    Return ``new``; ``duplicate`` if the ledger has this content already (the file is removed, unless the
    stored one was purged: then it is stored again, for backfills); or None if the file changed or disappeared
    while it was read, which leaves it to the next call.
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
        name=_decodable(path.name),
        size_bytes=size,
        stored_path=str(sources / sha256[:2] / sha256),
    )
    # In the ledger but not on disk: an earlier run died before it moved the file.
    unmoved = source["purged_at"] is None and not Path(source["stored_path"]).exists()
    duplicate = not source["is_new"] and not unmoved
    if source["purged_at"] is not None:
        await fetch(session, "clear_purged", source_id=source["source_id"])
    if source["is_new"] or duplicate:
        origin = _decodable(str(path))
        await fetch(
            session, "record_receipt", source_id=source["source_id"], origin=origin, duplicate=duplicate
        )
    return source, duplicate


def _move(path: Path, stored: Path) -> None:
    """Move a file atomically, also to another file system."""
    stored.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        path.rename(stored)
    except OSError:  # another file system: copy, then rename the complete copy
        copy = stored.with_name(f".{stored.name}.partial")
        shutil.copyfile(path, copy)
        with copy.open("rb+") as file:
            os.fsync(file.fileno())
        copy.rename(stored)
        path.unlink()
    with contextlib.suppress(PermissionError):  # another user owns the file; the directory protects it
        stored.chmod(0o600)


def _open_for_writing(path: Path) -> bool:
    """Return whether a process on this host has the file open for writing; always False outside Linux."""
    if sys.platform != "linux":
        return False
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False  # removed or not readable: receive() reports that
    try:
        # The kernel refuses a read lease while the file has a writer. If one opens the file while we hold the
        # lease, we get a signal: by default SIGIO, which kills the process; SIGURG is ignored.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False  # another user owns the file, or its file system has no leases
    finally:
        os.close(fd)
    return False


def _decodable(name: str) -> str:
    """Return a file name of any bytes as text that PostgreSQL can store."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\0", "\ufffd")
