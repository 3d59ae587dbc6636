"""The lock on a file that every process of a stage run's tree inherits: it is free once all of them have
ended.

A successor on the same host uses the lock, not a clock, to find out whether the work of a run that lost its
database session has ended. The lines of the file (``supervisor PID START``, ``begun``, ``group N``,
``ended``) are for the case that a supervisor was killed and its work has closed all descriptors: such
processes are found by the variable :data:`MARK` in their environment, or by the work's process group.
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
    """Write into the lock's file which process heads the tree; that process adds the further lines."""
    with suppress(psutil.NoSuchProcess):
        os.write(fd, f"supervisor {pid} {psutil.Process(pid).create_time()}\n".encode())


def has_begun(path: Path) -> bool:
    """Return whether the supervisor has received its command. Raises FileNotFoundError."""
    return "begun" in _lines(path.read_text())


def is_free(path: Path) -> bool:
    """Return whether every process of the tree has ended. Raises FileNotFoundError."""
    with path.open("r+") as file:  # its lines are read at the same time: its flow may remove it at any moment
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        lines = _lines(file.read())
    if "ended" in lines or "begun" not in lines:
        return True
    return next(survivors(path), None) is None


def end_survivors(path: Path) -> list[int]:
    """Kill what is left of a tree whose supervisor has ended; return the ids of what may not be killed.

    While the supervisor lives, ending the tree is its work, and nothing is killed here. Raises
    FileNotFoundError.
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
    """Yield the live processes of the tree, except its supervisor. Raises FileNotFoundError."""
    lines = _lines(path.read_text())
    supervisor, group = int((lines.get("supervisor") or ["0"])[0]), int((lines.get("group") or ["0"])[0])
    for process in psutil.process_iter():
        if process.pid in (supervisor, os.getpid()):
            continue
        with suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and _belongs(process, path, supervisor, group):
                yield process


def _belongs(process: psutil.Process, path: Path, supervisor: int, group: int) -> bool:
    with suppress(OSError):  # the session too, because the number of a group is reused at some time
        if group and (os.getpgid(process.pid), os.getsid(process.pid)) == (group, supervisor):
            return True
    with suppress(psutil.AccessDenied):
        if process.environ().get(MARK) == str(path):
            return True
    return any(
        _target(f"/proc/{process.pid}/fd/{fd}") == str(path) for fd in _names(f"/proc/{process.pid}/fd")
    )


def _names(folder: str) -> list[str]:
    with suppress(OSError):
        return os.listdir(folder)  # noqa: PTH208  only names are wanted
    return []


def _target(link: str) -> str:
    with suppress(OSError):
        return os.readlink(link)  # noqa: PTH115  text is what is compared
    return ""


def _supervisor_lives(path: Path) -> bool:
    with suppress(psutil.Error, KeyError):
        pid, started = _lines(path.read_text())["supervisor"]
        process = psutil.Process(int(pid))
        return process.create_time() == float(started) and process.status() != psutil.STATUS_ZOMBIE
    return False


def _lines(text: str) -> dict[str, list[str]]:
    """Return the lines of the file by their first words."""
    return {words[0]: words[1:] for line in text.splitlines() if (words := line.split())}


def environment(path: Path) -> Mapping[str, str]:
    """Return the variable that marks the processes of the tree."""
    return {MARK: str(path)}
