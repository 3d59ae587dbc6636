"""Crash handover: SIGKILL the flow that holds extract, and time the next one's entry.

usage: python tests/bench/bench_handover.py [--quick] [KILLS]

Each time a process of its own holds the gate with a child at work; the next waiter is in this process. The
seconds are those from the kill to the next holder's entry.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import frame
import psycopg
from frame import Row, row
from pipeline import installed

from flows.settings import Settings

CONTENDER = Path(__file__).parents[1] / "programs" / "contender.py"
MADE = "INSERT INTO batch_processing (file_count) SELECT 0 FROM generate_series(1, %s) RETURNING batch_id"
WAITS = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


async def handover(settings: Settings, held: str, waiting: str) -> float:
    from flows.gate import gate

    command = [sys.executable, str(CONTENDER), "gated", "extract", held, "--", "sleep", "600"]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
    assert holder.stdout is not None
    await asyncio.to_thread(holder.stdout.readline)
    entered = asyncio.Event()

    async def enter() -> None:
        async with gate("extract", waiting, database_url=settings.database, log=logging.getLogger("bench")):
            entered.set()

    next_one = asyncio.create_task(enter())
    with psycopg.connect(settings.database, autocommit=True) as connection:
        while not connection.execute(WAITS).fetchone():
            await asyncio.sleep(0.01)
    killed = time.perf_counter()
    holder.kill()
    await entered.wait()
    seconds = time.perf_counter() - killed
    await next_one
    holder.wait()
    return seconds


def measure(quick: bool, kills: str = "") -> Iterator[Row]:
    count = int(kills or (5 if quick else 20))
    with installed() as running:
        with psycopg.connect(running.settings.database) as connection:
            batches = [row[0] for row in connection.execute(MADE, [2 * count])]
        pairs = zip(batches[::2], batches[1::2], strict=True)
        seconds = [asyncio.run(handover(running.settings, *pair)) for pair in pairs]
    yield row(f"next holder's entry, median of {count} kills", median(seconds), "s", most=2, all=seconds)
    yield row(f"next holder's entry, worst of {count} kills", max(seconds), "s", most=5)


if __name__ == "__main__":
    frame.run(measure)
