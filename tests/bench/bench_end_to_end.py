"""End to end: archives of exports through the whole product, over the busiest lane's own work.

usage: python tests/bench/bench_end_to_end.py [--quick] [BATCH_SIZE ...]

100 archives of 10 MB of JSON each, in batches of 10, as they come, and of 2: the smaller, the sooner all
lanes are at work. The busiest lane is the stage whose runs took longest in all, divided by
how many of them may run at once; receiving the files (hashing, copying) is in the wall time as well.
"""

from __future__ import annotations

import asyncio
import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import frame
import material
import psutil
import psycopg
from frame import Peak, Row, row
from pipeline import cpu, installed

from flows.settings import Settings

MB = 1_000_000
LIMITS = {"extract": 1, "convert": 1, "store": 5}
WORKED = (
    "SELECT stage, sum(duration_sec)::float8 FROM stage_timings WHERE outcome = 'COMPLETED' GROUP BY stage"
)


def drop(settings: Settings, archives: int, size: int) -> int:
    """Drop archives of chats of their own; return the number of messages."""
    settings.inbox.mkdir(parents=True, exist_ok=True)
    export = settings.root / "result.json"
    messages = 0
    for number in range(1, archives + 1):
        messages += material.write_json(export, size, chat=number)
        path: Path = settings.inbox / f"{number}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.write(export, "ChatExport/result.json")
        os.utime(path, (1, 1))  # long settled
    export.unlink()
    return messages


def measure(quick: bool, *batch_sizes: str) -> Iterator[Row]:
    for batch_size in map(int, batch_sizes or ["10", "2"]):
        yield from run(batch_size, *((20, 1 * MB) if quick else (100, 10 * MB)))


def run(batch_size: int, archives: int, size: int) -> Iterator[Row]:
    with installed() as running:
        from flows.process_inbox import process_inbox

        settings = running.settings
        messages = drop(settings, archives, size)
        before, began = cpu(psutil.Process()), time.perf_counter()
        with Peak() as peak:
            asyncio.run(process_inbox(batch_size=batch_size))
        seconds, spent = time.perf_counter() - began, cpu(psutil.Process()) - before
        with psycopg.connect(settings.database) as connection:
            stored = connection.execute("SELECT count(*) FROM messages").fetchone()
            worked = dict(connection.execute(WORKED).fetchall())
    assert stored == (messages,), f"{messages} messages given, {stored} stored"
    lanes = {stage: worked[stage] / limit for stage, limit in LIMITS.items()}
    label = f"{archives} archives, {archives * size // MB} MB, by {batch_size}"
    raw = {"batch_size": batch_size, "lanes": lanes, "seconds": seconds, "messages": messages}
    yield row(f"{label}: of the busiest lane", seconds / max(lanes.values()), "×", most=1.15, **raw)
    yield row(f"{label}: wall", seconds, "s")
    yield row(f"{label}: speed", archives * size / MB / seconds, "MB/s")
    yield row(f"{label}: CPU of all processes", spent, "s")
    yield row(f"{label}: peak memory of all processes", peak.mb, "MB")


if __name__ == "__main__":
    frame.run(measure)
