"""End to end: archives of exports through the whole product, relative to the work of the busiest lane.

usage: python tests/bench/bench_end_to_end.py [--quick|--full] [BATCH_SIZE ...]

Mixed sources as the sample generator makes them (JSON, HTML, both, whole accounts, media beside them; all
kinds of archives, and repeated exports), 200 MB unpacked or 1 GB with --full. Then archives of 10 MB of JSON
each, 1 GB in all. Both in batches of 10 (the default) and the latter of 2: with smaller batches all lanes are
busy sooner. The first run includes the imports of a new process; the later ones find the rows of earlier
ones. The busiest lane is the stage with the longest total duration, divided by its limit. The wall time also
includes receiving the files (hashing, copying). Beside it: by_hand.py with the same archives, if chatpack is
installed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
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

from flows.samples import write_samples
from flows.settings import Settings

MB = 1_000_000
BY_HAND = Path(__file__).with_name("by_hand.py")
LIMITS = {"extract": 1, "convert": 1, "store": 5}
#: Messages of a mixed source, of some 500 bytes.
MESSAGES = 5_000
WORKED = """
SELECT stage, sum(duration_sec)::float8 FROM stage_timings
WHERE outcome = 'COMPLETED' AND stage_run_id > %s GROUP BY stage
"""
READ = """
SELECT coalesce(sum((counts->>'bytes_in')::float8), 0) FROM stage_runs
WHERE stage = 'convert' AND stage_run_id > %s
"""
SO_FAR = "SELECT (SELECT coalesce(max(stage_run_id), 0) FROM stage_runs), (SELECT count(*) FROM messages)"


def drop(settings: Settings, archives: range, size: int) -> int:
    """Write archives with these numbers into the inbox, one chat each; return the number of messages."""
    settings.inbox.mkdir(parents=True, exist_ok=True)
    export = settings.root / "result.json"
    messages = 0
    for number in archives:
        messages += material.write_json(export, size, chat=number)
        path: Path = settings.inbox / f"{number}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.write(export, "ChatExport/result.json")
        os.utime(path, (1, 1))  # old enough to be claimed
    export.unlink()
    return messages


def drop_mixed(settings: Settings, files: int) -> int:
    """Write mixed sources into the inbox, a tenth of them repeated; return the number of messages."""
    expected = write_samples(settings.inbox, files, MESSAGES, seed=7, again=files // 10, page=1_000)
    for path in settings.inbox.iterdir():
        os.utime(path, (1, 1))
    return expected.messages


def measure(quick: bool, *batch_sizes: str) -> Iterator[Row]:
    count, size = (20, 1 * MB) if quick else (100, 10 * MB)
    mixed = 10 if quick else 400 if frame.is_full() else 80
    with installed() as running:
        messages = drop_mixed(running.settings, mixed)
        yield from run(running.settings, 10, f"{mixed} mixed sources", messages)
        for place, batch_size in enumerate(map(int, batch_sizes or ["10", "2"])):
            archives = range(place * count + 1, (place + 1) * count + 1)
            messages = drop(running.settings, archives, size)
            by_hand = load_by_hand(running.settings, messages)
            yield from run(running.settings, batch_size, f"{count} archives", messages, by_hand)


def load_by_hand(settings: Settings, messages: int) -> float | None:
    """Return the seconds of by_hand.py with the archives in the inbox; None without chatpack."""
    if not importlib.util.find_spec("chatpack"):
        return None
    argv = [sys.executable, BY_HAND, settings.database, *sorted(settings.inbox.iterdir())]
    seconds, rows = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert 0 < int(rows) <= messages  # it drops what it does not know
    return float(seconds)


def run(
    settings: Settings, batch_size: int, what: str, messages: int, by_hand: float | None = None
) -> Iterator[Row]:
    from flows.process_inbox import process_inbox

    with psycopg.connect(settings.database, autocommit=True) as connection:
        last_run, there = connection.execute(SO_FAR).fetchone() or ()
        before, began = cpu(psutil.Process()), time.perf_counter()
        with Peak() as peak:
            asyncio.run(process_inbox(batch_size=batch_size))
        seconds, spent = time.perf_counter() - began, cpu(psutil.Process()) - before
        stored = (connection.execute(SO_FAR).fetchone() or ())[1] - there
        worked = dict(connection.execute(WORKED, [last_run]).fetchall())
        read = (connection.execute(READ, [last_run]).fetchone() or ())[0] / MB
    assert stored == messages, f"{messages} messages written, {stored} stored"
    lanes = {stage: worked[stage] / limit for stage, limit in LIMITS.items()}
    label = f"{what}, {read:.0f} MB, by {batch_size}"
    raw = {"batch_size": batch_size, "lanes": lanes, "seconds": seconds, "messages": messages}
    yield row(f"{label}: wall over the busiest lane", seconds / max(lanes.values()), "×", most=1.15, **raw)
    for stage, busy in lanes.items():
        yield row(f"{label}: {stage} busy", busy, "s")
    yield row(f"{label}: wall", seconds, "s", by_hand=by_hand)
    if by_hand:
        yield row(f"{label}: speed over unpacking, chatpack and COPY", by_hand / seconds, "×")
    yield row(f"{label}: speed", read / seconds, "MB/s")
    yield row(f"{label}: CPU of all processes", spent, "s")
    yield row(f"{label}: peak memory of all processes", peak.mb, "MB")


if __name__ == "__main__":
    frame.run(measure)
