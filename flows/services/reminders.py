"""Lines about a start that takes long: the current step, and the last line of its log.

PostgreSQL may replay its write-ahead log for a minute after a crash, and a service that an earlier process
left running may take ten seconds to stop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Protocol

#: Seconds after which a step is reported again.
_EVERY = 5.0
_END = 4096


class Step(Protocol):
    """Reports a step that begins; ``log`` is the log file of the service that the step waits for."""

    def __call__(self, line: str, log: Path | None = None) -> None:
        """Report the line."""


@contextmanager
def reminders(report: Callable[[str], None], every: float = _EVERY) -> Iterator[Step]:
    """Yield a function that reports steps; each step is reported again while it lasts."""
    lock, ended = Lock(), Event()
    current: tuple[str, Path | None, float] = ("", None, time.monotonic())

    def begin(line: str, log: Path | None = None) -> None:
        nonlocal current
        with lock:
            current = (line, log, time.monotonic())
            report(line)

    def remind() -> None:
        reported = 0.0
        while not ended.wait(every / 5):
            with lock:
                line, log, began = current
                now = time.monotonic()
                if line and now - max(began, reported) >= every and not ended.is_set():
                    report(f"{line}: {now - began:.0f} s so far{_last_line(log)}")
                    reported = now

    thread = Thread(target=remind, name="reminders", daemon=True)
    thread.start()
    try:
        yield begin
    finally:
        ended.set()
        thread.join()


def _last_line(log: Path | None) -> str:
    if log is None:
        return ""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _END))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((f"; {log}: {line.strip()}" for line in reversed(lines) if line.strip()), "")
