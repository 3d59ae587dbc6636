"""The time from the start of a stage's process until it opens its first input file (Linux).

usage: python tests/bench/bench_start.py [--quick]

The kernel reports when the file is opened (inotify), so the stage itself is not instrumented. It is compared
with the bare interpreter and with the imports of pandas and Prefect.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import frame
from frame import Row, row

_IN_OPEN = 0x20
EXPORT = '{"name": "A", "type": "private_channel", "id": 5, "messages": [{"id": 1, "type": "message"}]}'


@contextmanager
def watch(path: Path) -> Iterator[int]:
    """Yield a descriptor that becomes readable when a process opens ``path``."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_CLOEXEC)
    if descriptor < 0 or libc.inotify_add_watch(descriptor, os.fsencode(path), _IN_OPEN) < 0:
        raise OSError(ctypes.get_errno(), "inotify")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def until_opened(stage: str, source: Path, first: Path) -> float:
    """Return the seconds from the start of ``stage`` until it opens ``first``, a file below ``source``."""
    with tempfile.TemporaryDirectory(dir=source.parent) as output, watch(first) as opened:
        argv = [sys.executable, "-I", "-m", f"flows.stages.{stage}", str(source), f"{output}/{stage}"]
        env = {**os.environ, "TDP_DATABASE_URL": f"host={output} connect_timeout=1"}  # no server listens
        began = time.perf_counter()
        with subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            os.read(opened, 4096)
            return time.perf_counter() - began


def material(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Return for each stage its input, made by the previous stage, and the first file that it opens there."""
    source = folder / "source"
    source.mkdir()
    with zipfile.ZipFile(source / "000001-a.zip", "w") as archive:
        archive.writestr("result.json", EXPORT)
    for stage, given in ("extract", source), ("convert", folder / "extract"):
        frame.process_cost([sys.executable, "-m", f"flows.stages.{stage}", str(given), str(folder / stage)])
    return {
        "extract": (source, source / "000001-a.zip"),
        "convert": (folder / "extract", folder / "extract" / "000001-a.zip" / "result.json"),
        "store": (folder / "convert", folder / "convert" / "chats.parquet"),
    }


def measure(quick: bool) -> Iterator[Row]:
    rounds = 10 if quick else 40
    with tempfile.TemporaryDirectory(prefix="tdp-bench-") as name:
        stages = material(Path(name))
        took: dict[str, list[float]] = {stage: [] for stage in stages}
        for _ in range(rounds):  # in turns, so that a disturbance affects all stages alike
            for stage, (source, first) in stages.items():
                took[stage].append(until_opened(stage, source, first))
        for stage, seconds in took.items():
            best = round(1000 * min(seconds))
            yield row(f"{stage}, until its first input", 1000 * median(seconds), "ms", most=150, best=best)
    for what, code in {"bare python": "pass", "pandas": "import pandas", "prefect": "import prefect"}.items():
        costs = frame.in_turns(
            3, {what: lambda code=code: frame.process_cost([sys.executable, "-c", code])[0]}
        )
        yield row(f"for comparison: {what}", 1000 * costs[what].seconds, "ms", cpu=costs[what].cpu)


if __name__ == "__main__":
    frame.run(measure)
