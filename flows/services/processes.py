"""Long-running child processes: start, record, wait until ready, stop with all descendants."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from flows.errors import ServiceFailed
from flows.services import record
from flows.settings import Settings

_POLL_SECONDS = 0.05
#: Size from which a log is kept as an older one at the next start, and the number of older ones.
_LOG_BYTES, _LOGS_KEPT = 10_000_000, 5


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module as ``python -m`` does, with :mod:`flows.cli.startup`."""
    return [sys.executable, "-m", "flows.cli.startup", module, *arguments]


@dataclass(frozen=True)
class Child:
    """A running service: its name, its process and its log file."""

    name: str
    process: psutil.Popen
    log: Path
    #: Length of the log when the process started.
    log_offset: int = 0

    def wait_ready(self, is_ready: Callable[[], bool], seconds: float) -> None:
        """Wait for ``is_ready()``. Raises :class:`ServiceFailed` if the process exits or takes too long."""
        deadline = time.monotonic() + seconds
        while not is_ready():
            self.check()
            if time.monotonic() > deadline:
                raise ServiceFailed(f"{self.name} did not respond within {seconds:.0f} s.", *self.log_tail())
            time.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """Raise :class:`ServiceFailed` with the end of its log if the process has exited."""
        if self.process.poll() is not None:
            status = self.process.returncode
            raise ServiceFailed(f"{self.name} exited with status {status}.", *self.log_tail())

    def log_tail(self, lines: int = 5) -> list[str]:
        """Return the name of the log and the last lines that this process wrote."""
        text = self.log_end().strip().splitlines()[-lines:]
        return [f"Its log is {self.log}:", *(f"  {line}" for line in text)]

    def log_end(self, size: int = 4096) -> str:
        """Return at most ``size`` bytes from the end of what this process wrote into its log."""
        with self.log.open("rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - size, self.log_offset if self.log_offset <= length else 0))
            return file.read().decode(errors="replace")


def open_log(log: Path) -> IO[bytes]:
    """Open ``log`` to append; a large one is kept as ``<log>.1`` first, and older ones up to ``<log>.5``.

    So the logs of the days before survive restarts. Append mode, because logrotate may truncate the file.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        for number in reversed(range(1, _LOGS_KEPT)):
            older = Path(f"{log}.{number}")
            if older.exists():
                older.replace(f"{log}.{number + 1}")
        log.replace(f"{log}.1")
    return log.open("ab")


@contextmanager
def child(
    settings: Settings,
    name: str,
    command: Sequence[str | Path],
    *,
    stop_signal: signal.Signals = signal.SIGTERM,
    grace: float = 15,
    env: Mapping[str, str] | None = None,
    **popen: Any,
) -> Iterator[Child]:
    """Run ``command`` in a session of its own, so that Ctrl-C in the terminal does not reach it directly.

    Output is appended to ``<name>.log``, see :func:`open_log`. At the end of the block the process receives
    ``stop_signal`` and has ``grace`` seconds; then it and its descendants are killed.
    """
    log = settings.logs / f"{name}.log"
    with open_log(log) as out:
        offset = out.tell()
        process = psutil.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Only the bot receives its token, because Prefect writes the environment of flow runs into files.
            env={**os.environ, "TDP_BOT_TOKEN": "", **(env or {})},
            **popen,
        )
    try:
        record.add(settings, name, process, stop_signal, log)
        yield Child(name, process, log, offset)
    finally:
        stop(process, stop_signal, grace)
        record.remove(settings, name)


def stop(process: psutil.Process, stop_signal: signal.Signals, grace: float) -> None:
    """Stop ``process`` and all its descendants, including flow runs in sessions of their own."""
    try:
        family = [process, *process.children(recursive=True)]
        process.send_signal(stop_signal)
    except psutil.NoSuchProcess:
        return
    psutil.wait_procs([process], timeout=grace)
    _, left = psutil.wait_procs(family, timeout=0)
    for survivor in left:
        with suppress(psutil.NoSuchProcess):
            survivor.kill()
    psutil.wait_procs(left, timeout=5)
