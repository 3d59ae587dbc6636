"""The lock on a file that every process of a stage run's tree inherits: it is free once all of them are gone.

A successor on the same host asks the lock, not a clock, whether the work of a run that lost its database
session has ended. The file also names the supervisor and the work, so that processes are found which have
closed their descriptors: by the variable :data:`MARK` in their environment, or by the work's process group
and session.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

#: Environment variable that holds the path of the lock in every process of the tree.
MARK = "TDP_WORK_LOCK"


def acquire(path: Path) -> int:
    """Create the file at ``path``, lock it and return its descriptor. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fd


def name_supervisor(fd: int, pid: int) -> None:
    """Write into the lock's file which process heads the tree, and when that started.

    The supervisor appends the process group of the work once that has begun.
    """
    with suppress(psutil.NoSuchProcess):
        os.write(fd, f"{pid} {psutil.Process(pid).create_time()}\n".encode())


def has_begun(path: Path) -> bool:
    """Return whether the work has ever begun. Raises FileNotFoundError."""
    return _named(path)[2] != 0


def is_free(path: Path) -> bool:
    """Return whether every process of the tree has ended. Raises FileNotFoundError."""
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return next(survivors(path), None) is None


def end_survivors(path: Path) -> list[int]:
    """Kill what is left of a tree whose supervisor has ended; return the ids of what may not be killed.

    While the supervisor lives, ending the tree is its work, and nothing is killed here.
    """
    if _supervisor_lives(path):
        return []
    spared = []
    for process in survivors(path):
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.AccessDenied:
            spared.append(process.pid)
        except psutil.NoSuchProcess:
            pass
    return spared


def survivors(path: Path) -> Iterator[psutil.Process]:
    """Yield the living processes of the tree, its supervisor apart."""
    supervisor, _, group = _named(path)
    for process in psutil.process_iter():
        if process.pid in (supervisor, os.getpid()):
            continue
        with suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and _belongs(process, path, supervisor, group):
                yield process


def _belongs(process: psutil.Process, path: Path, supervisor: int, group: int) -> bool:
    with suppress(ProcessLookupError):
        if group and (os.getpgid(process.pid), os.getsid(process.pid)) == (group, supervisor):
            return True
    with suppress(psutil.AccessDenied):
        if process.environ().get(MARK) == str(path):
            return True
        return any(os.path.realpath(f"/proc/{process.pid}/fd/{fd}") == str(path) for fd in _open(process.pid))
    return False


def _open(pid: int) -> list[str]:
    with suppress(OSError):
        return os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208  only names are wanted
    return []


def _supervisor_lives(path: Path) -> bool:
    supervisor, started, _ = _named(path)
    with suppress(psutil.Error):
        process = psutil.Process(supervisor)
        return process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE
    return False


def _named(path: Path) -> tuple[int, float, int]:
    """Return the supervisor's process id and start time and the work's group; zeros for what is not known."""
    words = [*path.read_text().split(), "0", "0", "0"]
    return int(words[0]), float(words[1]), int(words[2])


def environment(path: Path) -> Mapping[str, str]:
    """Return what marks the processes of the tree."""
    return {MARK: str(path)}
