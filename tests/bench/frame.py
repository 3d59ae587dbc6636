"""The frame of all benchmarks: the form of a row, contenders that run in turns, and the cost of a process.

Every benchmark is a program that prints one :class:`Row` per line as JSON; bench.py runs them and collects
the rows.
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
    """One figure; ``met`` is whether it reaches its target, if it has one; ``raw`` are its source figures."""

    name: str
    value: float
    unit: str
    target: str | None = None
    met: bool | None = None
    raw: dict[str, Any] = {}


def row(
    name: str, value: float, unit: str, *, least: float | None = None, most: float | None = None, **raw: Any
) -> Row:
    """Return a row with the target to be at least ``least`` or at most ``most``."""
    if least is not None:
        return Row(name, value, unit, f"≥ {least:g}", value >= least, raw)
    if most is not None:
        return Row(name, value, unit, f"≤ {most:g}", value <= most, raw)
    return Row(name, value, unit, raw=raw)


class Cost(NamedTuple):
    """The cost of some work: wall-clock and CPU time in seconds, peak memory in MB."""

    seconds: float
    cpu: float
    peak_mb: float = 0.0


class Peak:
    """Sample the memory of this process and its descendants every ``every`` s; ``mb`` is the maximum.

    Pages that several processes share count once (PSS); otherwise PostgreSQL's buffers would count per
    session.
    """

    def __init__(self, every: float = 0.5, *, below: bool = False) -> None:
        """Create it; with ``below``, this process itself does not count."""
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
    """Run ``argv`` until it ends; return its cost and its stdout. Raises CalledProcessError if it fails.

    The peak is that of the process alone, as counted by the kernel. It starts with the peak of the parent, so
    keep the parent small.
    """
    began = time.perf_counter()
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=env, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, argv)
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024), output


def reported_cost(argv: Sequence[str]) -> Cost:
    """Return the cost that the program ``argv`` reports in its last line, which excludes its own start."""
    cost, output = process_cost(argv)
    seconds, cpu = map(float, output.split()[-2:])
    return Cost(seconds, cpu, cost.peak_mb)


def in_turns(rounds: int, contenders: Mapping[str, Callable[[], Cost]]) -> dict[str, Cost]:
    """Run the contenders in turns, so that a disturbance affects all alike; return the medians of each."""
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
    """Return the raw figures of a comparison: both costs, and the ratio of their CPU times."""
    return {
        "ours": ours._asdict(),
        "theirs": theirs._asdict(),
        "by_cpu": round(theirs.cpu / ours.cpu, 3),
    }


def is_full() -> bool:
    """Return whether this benchmark is also to measure what is compared with nothing, or takes long."""
    return "--full" in sys.argv


def run(measure: Callable[..., Iterator[Row]]) -> None:
    """Run one benchmark as a program: ``[--quick|--full] [ARGUMENT ...]``; print each row when measured."""
    arguments = [argument for argument in sys.argv[1:] if argument not in ("--quick", "--full")]
    if arguments and len(inspect.signature(measure).parameters) < 2:
        sys.exit(f"{measure.__module__} takes no arguments but --quick and --full")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that its services are stopped too
    for found in measure("--quick" in sys.argv, *arguments):
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
        sys.stdout.flush()
