"""The time from the end of a file's copy into the inbox of an idle `tdp up` until its batch is completed.

usage: python tests/bench/bench_arrival.py [--quick] [DROPS]

Each file is dropped at a random moment after the last run has ended. The parts are the medians of the times
between: copied, run requested, run taken by the worker, flow started in its process, file received, extract
started, batch completed. All clocks are those of this machine.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TypeVar

import frame
import psycopg
from frame import Row, row

from flows import services
from flows.samples import write_samples
from flows.settings import Settings

T = TypeVar("T")
#: Longest pause before a drop, in seconds: longer than any interval at which a service looks.
_PAUSE = 4.0
PARTS = ("requested", "taken by the worker", "flow started", "received", "extract started", "completed")
#: When a file was received, extracted and completed.
DONE = """
SELECT s.received_at, r.started_at, b.completed_at
FROM source_files s JOIN batch_files USING (source_id) JOIN batch_processing b USING (batch_id)
JOIN stage_runs r ON r.batch_id = b.batch_id AND r.stage = 'extract'
WHERE b.status = 'COMPLETED' AND s.name = %s
"""
PARENT = """
SELECT flow_run_id FROM run_batches JOIN batch_files USING (batch_id) JOIN source_files USING (source_id)
WHERE name = %s
"""


@contextmanager
def up() -> Iterator[Settings]:
    """Run `tdp up` until the block ends."""
    with tempfile.TemporaryDirectory(prefix="tdp-bench-") as home:
        ports = {"server_port": services.free_port(), "monitor_port": services.free_port()}
        settings = Settings(home=Path(home, "home"), **ports)
        env = {"TDP_HOME": str(settings.root)} | {f"TDP_{name.upper()}": str(ports[name]) for name in ports}
        with subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "up"],
            env=os.environ | env,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            assert process.stdout
            if not any(line.startswith("Ready") for line in process.stdout):
                raise SystemExit("`tdp up` did not start")
            try:
                yield settings
            finally:
                os.killpg(process.pid, signal.SIGINT)
                process.wait(60)


def until(condition: Callable[[], T], seconds: float = 120) -> T:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"not true within {seconds:g} s")
        time.sleep(0.02)
    return value


def ask(settings: Settings, path: str) -> Any:
    url = f"{services.server_url(settings)}/api/{path}"
    with urllib.request.urlopen(url, timeout=30) as response:  # noqa: S310 - loopback
        return json.load(response)


def drop(settings: Settings, ledger: psycopg.Connection[Any], file: Path) -> list[float]:
    """Copy ``file`` into the inbox; return the seconds from then to each of PARTS once all have happened."""
    shutil.copyfile(file, settings.inbox / file.name)
    copied = time.time()
    received, extracting, completed = until(lambda: ledger.execute(DONE, [file.name]).fetchone())
    (parent,) = ledger.execute(PARENT, [file.name]).fetchone() or ()
    until(lambda: ask(settings, f"flow_runs/{parent}")["end_time"])
    states = {
        state["name"]: datetime.fromisoformat(state["timestamp"])
        for state in reversed(ask(settings, f"flow_run_states/?flow_run_id={parent}"))
    }
    taken = [states["Scheduled"], states["Pending"], states["Running"]]
    return [moment.timestamp() - copied for moment in (*taken, received, extracting, completed)]


def measure(quick: bool, drops: str = "") -> Iterator[Row]:
    count, rng = int(drops or (5 if quick else 20)), random.Random(7)
    found: list[list[float]] = []
    with up() as settings, tempfile.TemporaryDirectory(prefix="tdp-bench-") as folder:
        write_samples(Path(folder), count, 100, 7)
        with psycopg.connect(settings.database, autocommit=True) as ledger:
            settings.inbox.mkdir(exist_ok=True)
            for file in sorted(Path(folder).iterdir())[:count]:
                time.sleep(rng.uniform(0, _PAUSE))
                found.append(drop(settings, ledger, file))
    totals = [moments[-1] for moments in found]
    worst = quantiles(totals, n=20, method="inclusive")[-1]
    yield row(f"file to completed, median of {count}", median(totals), "s", most=10, all=totals)
    yield row("file to completed, 95th percentile", worst, "s", most=15)
    for place, part in enumerate(PARTS):
        parts = [moments[place] - (moments[place - 1] if place else 0) for moments in found]
        yield row(f"of which until {part}, median", median(parts), "s", all=parts)


if __name__ == "__main__":
    frame.run(measure)
