"""Freeze processes as a suspended host freezes them (root; a cgroup of version 2)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup/unified" if Path("/sys/fs/cgroup/unified").exists() else "/sys/fs/cgroup")


@contextmanager
def frozen(processes: list[psutil.Process]) -> Iterator[None]:
    """Freeze processes until the block ends: none of them runs, not even for a signal."""
    group = CGROUPS / f"tdp-test-{os.getpid()}"
    group.mkdir()
    try:
        for process in processes:
            with suppress(ProcessLookupError):  # it has ended since it was listed
                (group / "cgroup.procs").write_text(str(process.pid))
        (group / "cgroup.freeze").write_text("1")
        yield
    finally:
        (group / "cgroup.freeze").write_text("0")
        for pid in (group / "cgroup.procs").read_text().split():
            with suppress(OSError):
                (CGROUPS / "cgroup.procs").write_text(pid)
        group.rmdir()
