"""Crash handover: SIGKILL the flow that holds extract, and time the next one's entry.

usage: python tests/bench/bench_handover.py [KILLS]

Each time a process of its own holds the gate with a child at work; the next waiter is in this process. Prints
one JSON object: seconds from the kill to the next holder's entry, median and worst.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from flows import services
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


def main(kills: int) -> None:
    with tempfile.TemporaryDirectory(prefix="tdp-bench-") as home:
        settings = Settings(home=Path(home), server_port=services.free_port())
        with services.installation(settings):
            os.environ.update(services.environment(settings))
            from deployments.apply import apply_basics

            asyncio.run(apply_basics(settings))
            with psycopg.connect(settings.database) as connection:
                batches = [row[0] for row in connection.execute(MADE, [2 * kills])]
            pairs = zip(batches[::2], batches[1::2], strict=True)
            seconds = [asyncio.run(handover(settings, *pair)) for pair in pairs]
    figures = {"median": statistics.median(seconds), "worst": max(seconds)}
    sys.stdout.write(json.dumps({"name": "handover", "kills": kills, **figures}) + "\n")


if __name__ == "__main__":
    main(int((sys.argv[1:] or ["20"])[0]))
