"""An installation for a benchmark, and the CPU time of its processes."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from flows import services
from flows.services import Installation
from flows.settings import Settings

#: Seconds that the stages sleep: they only write an output.
NOTHING = {"extract": 0.0, "convert": 0.0, "store": 0.0}


@contextmanager
def installed() -> Iterator[Installation]:
    """Run a separate installation with limits and blocks applied, and make this process its client."""
    with tempfile.TemporaryDirectory(prefix="tdp-bench-") as home:
        settings = Settings(home=Path(home), server_port=services.free_port())
        with services.installation(settings) as running:
            os.environ.update(services.environment(settings))
            os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "WARNING"
            os.environ["TDP_LOOK_SECONDS"] = "0"  # a benchmark starts its runs itself
            from deployments.apply import apply_basics

            asyncio.run(apply_basics(settings))
            yield running


def cpu(process: psutil.Process) -> float:
    """Return the CPU seconds of a process and its descendants, including ended ones that were waited for."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            total += sum(each.cpu_times()[:4])
    return total
