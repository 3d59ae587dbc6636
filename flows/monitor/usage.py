"""Memory and CPU of this installation's processes on this host."""

from __future__ import annotations

import os
import time
from collections import defaultdict, deque
from collections.abc import Iterator

import msgspec
import psutil

from flows.settings import Settings

#: What in a command line names a service; a process that says nothing belongs to its parent's.
_SERVICES = (
    ("supervise.py", "stages"),
    ("prefect.flow_engine", "flows"),
    ("prefect.engine", "flows"),
    ("flows.cli.inbox_process", "flows"),
    ("flows.operations.recovery", "recovery"),
    ("flows.monitor", "monitor"),
    ("tdp monitor", "monitor"),
    ("worker start", "worker"),
    ("server start", "prefect-server"),
    ("postgres", "postgres"),
)
#: Samples that CPU is averaged over: 5 minutes of them at one every 15 seconds.
_SAMPLES = 20


class Usage(msgspec.Struct, frozen=True):
    """Bytes in use by service, cores in use by all since the sample before, and shares of the whole machine.

    ``cpu_share`` is the average of the last _SAMPLES samples: every conversion is a burst.
    """

    memory_bytes: dict[str, int] = {}
    cpu_cores: float = 0.0
    memory_share: float = 0.0
    cpu_share: float = 0.0


class Sampler:
    """Takes samples; CPU is counted from one sample to the next, so the first one counts none."""

    def __init__(self, settings: Settings) -> None:
        """Look for the processes of the installation of ``settings``."""
        self._settings = settings
        self._before: tuple[float, float] | None = None
        self._cores: deque[float] = deque(maxlen=_SAMPLES)

    def sample(self) -> Usage:
        """Return what is in use now."""
        memory: defaultdict[str, int] = defaultdict(int)
        cpu = 0.0
        for service, process in _ours(self._settings):
            try:
                memory[service] += _memory(process)
                cpu += sum(process.cpu_times()[:4])  # with what its ended children have used
            except psutil.Error:
                continue  # it has ended meanwhile
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


def _ours(settings: Settings) -> Iterator[tuple[str, psutil.Process]]:
    """Yield service and process: those whose environment names our home, PostgreSQL, and all below them."""
    found: dict[int, str] = {}
    for root in psutil.process_iter():
        try:
            if root.pid in found or not _is_root(root, settings):
                continue
            for process in (root, *root.children(recursive=True)):  # parents first
                if process.pid not in found:  # numbers start anew: a root can come before its parent
                    found[process.pid] = _named(process) or found.get(process.ppid(), "other")
                    yield found[process.pid], process
        except psutil.Error:
            continue  # it has ended, or belongs to somebody else


def _is_root(process: psutil.Process, settings: Settings) -> bool:
    try:
        postmaster = int((settings.postgres_data / "postmaster.pid").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        postmaster = None
    return process.pid in (postmaster, os.getpid()) or process.environ().get("TDP_HOME") == str(settings.root)


def _named(process: psutil.Process) -> str | None:
    command = " ".join(process.cmdline())
    return next((service for words, service in _SERVICES if words in command), None)


def _memory(process: psutil.Process) -> int:
    """Return what the process alone has, and its part of what it shares: PostgreSQL shares a lot."""
    memory = process.memory_full_info()
    return int(getattr(memory, "pss", memory.uss))
