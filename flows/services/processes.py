"""Long-running child processes: start, record, wait until ready, stop with everything below them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flows.errors import ServiceFailed
from flows.services import record
from flows.settings import Settings

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Child:
    """A running service: its process, the file it logs to and the signal that ends it in order."""

    name: str
    process: psutil.Popen
    log: Path

    def wait_ready(self, is_ready: Callable[[], bool], seconds: float) -> None:
        """Return when ``is_ready()``; raises :class:`ServiceFailed` if it ends first or is too slow."""
        deadline = time.monotonic() + seconds
        while not is_ready():
            self.check()
            if time.monotonic() > deadline:
                raise ServiceFailed(f"{self.name} did not answer within {seconds:.0f} s. {self.log_tail()}")
            time.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """Raise :class:`ServiceFailed` with the end of its log if it does not run any more."""
        if self.process.poll() is not None:
            raise ServiceFailed(f"{self.name} ended (status {self.process.returncode}). {self.log_tail()}")

    def log_tail(self, lines: int = 5) -> str:
        """Return the log's name and its last lines."""
        text = self.log.read_text(errors="replace").strip().splitlines()[-lines:]
        return "\n  ".join([f"Its log is {self.log}:", *text])


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
    """Run ``command`` in a session of its own, so that a terminal's Ctrl-C leaves it to us to stop it.

    Output goes to ``<name>.log``; the one of the time before is kept as ``<name>.log.1``. On leaving, the
    process gets ``stop_signal`` and ``grace`` seconds; then what is left of it and its descendants is killed.
    """
    settings.logs.mkdir(parents=True, exist_ok=True)
    log = settings.logs / f"{name}.log"
    if log.exists():
        log.replace(f"{log}.1")
    with log.open("ab") as out:  # appending: the file may be cut short under the service
        process = psutil.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(env or {})},
            **popen,
        )
    try:
        record.add(settings, name, process, stop_signal, log)
        yield Child(name, process, log)
    finally:
        stop(process, stop_signal, grace)
        record.remove(settings, name)


def stop(process: psutil.Process, stop_signal: signal.Signals, grace: float) -> None:
    """End ``process`` and all that descends from it, flow runs in sessions of their own included."""
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
