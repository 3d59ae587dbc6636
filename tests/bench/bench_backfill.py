"""The time that new batches take while a long backfill runs, and how long they wait for each gate.

usage: python tests/bench/bench_backfill.py [--quick] [BATCHES [FRESH]]

Loads BATCHES (200) batches, runs them all again in a separate process, and meanwhile writes FRESH (10) files
into the inbox, one after the other. The stages sleep 0.3, 0.2 and 0.6 s.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import frame
import psycopg
from frame import Row, row
from pipeline import installed

from flows.settings import Settings

SLEEPS = {"extract": 0.3, "convert": 0.2, "store": 0.6}

WAITS = """
SELECT t.stage, max(wait_sec), max(duration_sec)
FROM stage_timings t JOIN batch_files USING (batch_id) JOIN source_files USING (source_id)
WHERE name LIKE 'fresh%' GROUP BY t.stage
"""
DONE_AGAIN = "SELECT count(*) FROM stage_runs WHERE attempt = 2 AND stage = 'store' AND outcome = 'COMPLETED'"


def drop(settings: Settings, name: str) -> None:
    settings.inbox.mkdir(parents=True, exist_ok=True)
    file = settings.inbox / name
    file.write_text(name)
    os.utime(file, (1, 1))  # old enough to be claimed


def query(settings: Settings, statement: str) -> list[Any]:
    with psycopg.connect(settings.database) as connection:
        return connection.execute(statement.encode()).fetchall()


async def use_stages(seconds: Path) -> None:
    """Use stages that sleep for the number of seconds in the file of their name in ``seconds``."""
    from blocks import StageCommand

    for stage in SLEEPS:
        command = ["sh", "-c", f"sleep $(cat {seconds}/{stage}) && mkdir {{output}} && touch {{output}}/rows"]
        await StageCommand(command=command).save(stage, overwrite=True)


async def fresh_batch(settings: Settings, name: str) -> float:
    """Return the seconds from the arrival of a file to the end of its batch."""
    from flows.process_inbox import process_inbox

    drop(settings, name)
    began = time.perf_counter()
    await process_inbox(batch_size=1)
    return round(time.perf_counter() - began, 2)


async def measure(settings: Settings, batches: int, fresh: int, seconds: Path) -> dict[str, Any]:
    from flows.process_inbox import process_inbox

    await use_stages(seconds)
    for stage in SLEEPS:
        (seconds / stage).write_text("0")
    for number in range(batches):
        drop(settings, f"old-{number}.zip")
    await process_inbox(batch_size=1)
    for stage, sleep in SLEEPS.items():
        (seconds / stage).write_text(str(sleep))
    alone = [await fresh_batch(settings, f"alone-{number}.zip") for number in range(3)]

    began = time.perf_counter()
    argv = [sys.executable, "-m", "flows.cli.flow_process", "flows.backfill:backfill"]
    argv += [json.dumps({"source": "old-*"}), str(seconds / "outcome")]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:  # noqa: ASYNC220 - its start may block
        while query(settings, DONE_AGAIN) < [(10,)]:
            await asyncio.sleep(0.2)
        beside = [await fresh_batch(settings, f"fresh-{number}.zip") for number in range(fresh)]
        again_by_then = query(settings, DONE_AGAIN)[0][0]
        process.wait()
    return {
        "batches": batches,
        "backfill_seconds": round(time.perf_counter() - began, 1),
        "run_again_when_the_last_fresh_one_ended": again_by_then,
        "fresh_alone_seconds": median(alone),
        "fresh_beside_seconds": {"median": median(beside), "worst": max(beside)},
        "worst_wait_and_duration": {
            stage: [round(wait, 2), round(ran, 2)] for stage, wait, ran in query(settings, WAITS)
        },
        "overlaps": len(query(settings, "SELECT * FROM stage_overlaps")),
    }


def rows(quick: bool, batches: str = "", fresh: str = "") -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="tdp-bench-") as seconds, installed() as running:
        settings = running.settings
        counts = int(batches or (30 if quick else 200)), int(fresh or (3 if quick else 10))
        found = asyncio.run(measure(settings, *counts, Path(seconds)))
    beside = found["fresh_beside_seconds"]
    yield row("a new batch alone", found["fresh_alone_seconds"], "s", **found)
    yield row("a new batch during a backfill, median", beside["median"], "s")
    yield row("a new batch during a backfill, worst", beside["worst"], "s")
    yield row("overlaps", found["overlaps"], "", most=0)


if __name__ == "__main__":
    frame.run(rows)
