"""The frame of all benchmarks: rows in one form, contenders that take turns, and what a process cost.

Every benchmark is a program that prints one :class:`Row` per line as JSON; bench.py runs them and collects.
"""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from statistics import median
from typing import Any, NamedTuple

import msgspec
import psutil


class Row(msgspec.Struct, omit_defaults=True):
    """One figure: ``met`` says whether it reaches its target, if it has one; ``raw`` is what it came from."""

    name: str
    value: float
    unit: str
    target: str | None = None
    met: bool | None = None
    raw: dict[str, Any] = {}


def row(
    name: str, value: float, unit: str, *, least: float | None = None, most: float | None = None, **raw: Any
) -> Row:
    """Return a row whose target is to be at least ``least`` or at most ``most``."""
    if least is not None:
        return Row(name, value, unit, f"≥ {least:g}", value >= least, raw)
    if most is not None:
        return Row(name, value, unit, f"≤ {most:g}", value <= most, raw)
    return Row(name, value, unit, raw=raw)


class Cost(NamedTuple):
    """What some work cost: wall clock and CPU in seconds, memory at its peak in MB."""

    seconds: float
    cpu: float
    peak_mb: float = 0.0


class Peak:
    """Looks every so many seconds at the memory of this process and of all below it; ``mb`` is the most seen.

    Pages that several processes share count once (PSS): else PostgreSQL's buffers would for each session.
    """

    def __init__(self, every: float = 0.5, *, below: bool = False) -> None:
        """With ``below``, this process itself does not count."""
        self.mb = 0.0
        self._every, self._below = every, below
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(self._every):
            family = me.children(recursive=True) if self._below else [me, *me.children(recursive=True)]
            self.mb = max(self.mb, sum(map(_pss, family)))


def _pss(process: psutil.Process) -> float:
    with suppress(psutil.Error, OSError):
        return float(process.memory_full_info().pss) / 1e6
    return 0.0


def process_cost(argv: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[Cost, str]:
    """Run ``argv`` to its end; return its cost and its stdout. Raises CalledProcessError if it fails.

    The peak is the process's own, as the kernel counted it; it starts from that of ours, so keep ours small.
    """
    began = time.perf_counter()
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=env, text=True) as process:
        assert process.stdout is not None
        told = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, argv)
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024), told


def told_cost(argv: Sequence[str]) -> Cost:
    """Return what the program ``argv`` says in its last line that its work cost, without its own start."""
    cost, told = process_cost(argv)
    seconds, cpu = map(float, told.split()[-2:])
    return Cost(seconds, cpu, cost.peak_mb)


def in_turns(rounds: int, contenders: Mapping[str, Callable[[], Cost]]) -> dict[str, Cost]:
    """Let the contenders work by turns, so that a disturbance meets all alike; return each one's medians."""
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            costs[name].append(work())
    return {name: Cost(*map(median, zip(*found, strict=True))) for name, found in costs.items()}


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that ``work`` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ratio(ours: Cost, theirs: Cost) -> dict[str, Any]:
    """Return the raw figures of a comparison: both costs, and how often ours goes into theirs by CPU time."""
    return {
        "ours": ours._asdict(),
        "theirs": theirs._asdict(),
        "by_cpu": round(theirs.cpu / ours.cpu, 3),
    }


def run(measure: Callable[..., Iterator[Row]]) -> None:
    """Run one benchmark as a program: ``[--quick] [ARGUMENT ...]``; print its rows as they come."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--quick"]
    if arguments and len(inspect.signature(measure).parameters) < 2:
        sys.exit(f"{measure.__module__} takes no arguments but --quick")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # and what it started goes with it
    for found in measure("--quick" in sys.argv, *arguments):
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
        sys.stdout.flush()
