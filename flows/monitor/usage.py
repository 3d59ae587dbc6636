"""Memory and CPU usage of this installation's processes on this host."""

from __future__ import annotations

import os
import time
from collections import defaultdict, deque
from collections.abc import Iterator

import msgspec
import psutil

from flows.settings import Settings
from flows.stages.runner.process import SUPERVISOR

#: Text in a command line that identifies a service; a process without one belongs to its parent's service.
_SERVICES = (
    (str(SUPERVISOR), "stages"),
    ("prefect.flow_engine", "flows"),
    ("prefect.engine", "flows"),
    ("flows.cli.flow_process", "flows"),
    ("flows.operations.recovery", "recovery"),
    ("flows.bot", "bot"),
    ("tdp bot", "bot"),
    ("flows.monitor", "monitor"),
    ("tdp monitor", "monitor"),
    ("worker start", "worker"),
    ("server start", "prefect-server"),
    ("postgres", "postgres"),
)
#: Samples over which CPU usage is averaged: 5 minutes at one every 15 seconds.
_SAMPLES = 20


class Usage(msgspec.Struct, frozen=True):
    """Bytes by service, cores in use since the previous sample, and fractions of the whole machine.

    ``cpu_share`` is the average of the last _SAMPLES samples, because each convert run is a burst.
    """

    memory_bytes: dict[str, int] = {}
    cpu_cores: float = 0.0
    memory_share: float = 0.0
    cpu_share: float = 0.0


class Sampler:
    """Takes samples of the usage; CPU is measured between two samples, so the first one has none."""

    def __init__(self, settings: Settings) -> None:
        """Sample the processes of the installation with these ``settings``."""
        self._settings = settings
        self._before: tuple[float, float] | None = None
        self._cores: deque[float] = deque(maxlen=_SAMPLES)

    def sample(self) -> Usage:
        """Return the current usage."""
        memory: defaultdict[str, int] = defaultdict(int)
        cpu = 0.0
        for service, process in _own_processes(self._settings):
            try:
                memory[service] += _memory(process)
                cpu += sum(process.cpu_times()[:4])  # includes the CPU time of its ended children
            except psutil.Error:
                continue  # it has ended since
        now = time.monotonic()
        if self._before:
            self._cores.append(max(cpu - self._before[1], 0.0) / (now - self._before[0]))
        self._before = now, cpu
        return Usage(
            memory_bytes=dict(memory),
            cpu_cores=self._cores[-1] if self._cores else 0.0,
            memory_share=sum(memory.values()) / psutil.virtual_memory().total,
            cpu_share=sum(self._cores) / _SAMPLES / (os.cpu_count() or 1),
        )


def _own_processes(settings: Settings) -> Iterator[tuple[str, psutil.Process]]:
    """Yield (service, process) of this installation.

    These are the processes with its home in their environment, PostgreSQL, and all their descendants.
    """
    found: dict[int, str] = {}
    for root in psutil.process_iter():
        try:
            if root.pid in found or not _is_root(root, settings):
                continue
            for process in (root, *root.children(recursive=True)):  # parents first
                if process.pid not in found:  # pids wrap around: a root can be listed before its parent
                    found[process.pid] = _service_of(process) or found.get(process.ppid(), "other")
                    yield found[process.pid], process
        except psutil.Error:
            continue  # it has ended, or another user owns it


def _is_root(process: psutil.Process, settings: Settings) -> bool:
    try:
        postmaster = int((settings.postgres_data / "postmaster.pid").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        postmaster = None
    return process.pid in (postmaster, os.getpid()) or process.environ().get("TDP_HOME") == str(settings.root)


def _service_of(process: psutil.Process) -> str | None:
    command = " ".join(process.cmdline())
    return next((service for words, service in _SERVICES if words in command), None)


def _memory(process: psutil.Process) -> int:
    """Return the proportional set size if available: PostgreSQL's processes share much memory."""
    memory = process.memory_full_info()
    return int(getattr(memory, "pss", memory.uss))
