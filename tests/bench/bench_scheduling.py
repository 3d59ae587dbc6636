"""How near the pipeline comes to an ideal schedule: run time over that of lanes without any overhead.

usage: python tests/bench/bench_scheduling.py [W1|W2|W3] ...

Each workload runs through the whole product (flows, gates, real child processes that sleep) on an
installation of its own. Prints one JSON object per workload.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg

from flows import services
from flows.settings import Settings

#: Batches, and the seconds each stage sleeps.
WORKLOADS = {
    "W1": (20, {"extract": 0.5, "convert": 0.3, "store": 1.5}),
    "W2": (100, {"extract": 0.1, "convert": 0.05, "store": 0.2}),
    "W3": (12, {"extract": 5.0, "convert": 3.0, "store": 15.0}),
}
LIMITS = {"extract": 1, "convert": 1, "store": 5}


def ideal(batches: int, sleeps: dict[str, float]) -> float:
    """Return the seconds of a FIFO pipeline with our limits and no overhead at all."""
    lanes = {stage: [0.0] * LIMITS[stage] for stage in sleeps}
    end = 0.0
    for _ in range(batches):
        ready = 0.0
        for stage, seconds in sleeps.items():
            ready = max(ready, heapq.heappop(lanes[stage])) + seconds
            heapq.heappush(lanes[stage], ready)
        end = max(end, ready)
    return end


async def use_sleeping_stages(sleeps: dict[str, float]) -> None:
    from blocks import StageCommand

    for stage, seconds in sleeps.items():
        command = ["sh", "-c", f"sleep {seconds} && mkdir {{output}} && touch {{output}}/rows"]
        await StageCommand(command=command).save(stage, overwrite=True)


GAPS = """
SELECT percentile_cont(array[0.5, 0.95]) WITHIN GROUP (ORDER BY gap) AS gaps FROM (
    SELECT queued_at, freed_at, 1000 * extract(epoch FROM started_at - freed_at) AS gap FROM (
        SELECT queued_at, started_at, lag(finished_at) OVER (ORDER BY started_at) AS freed_at
        FROM stage_runs WHERE stage = 'extract' AND queued_at >= %s) runs) gaps
WHERE queued_at < freed_at
"""


def gaps(settings: Settings, since: datetime) -> list[float]:
    """Return median and p95 of the time (ms) the extract gate stood open while a run was waiting for it."""
    with psycopg.connect(settings.database) as connection:
        row = connection.execute(GAPS, [since]).fetchone()
    return [round(gap) for gap in (row and row[0]) or []]


def cpu(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


async def run_once(settings: Settings, batches: int, server: psutil.Process) -> dict[str, Any]:
    from flows.process_inbox import process_inbox

    settings.inbox.mkdir(parents=True, exist_ok=True)
    for number in range(batches):
        file = settings.inbox / f"{time.time_ns()}-{number}.zip"
        file.write_text(file.name)
        os.utime(file, (1, 1))  # long settled
    ours = psutil.Process()
    before = cpu([server]), cpu([ours])
    since, began = datetime.now(UTC), time.perf_counter()
    await process_inbox(batch_size=1)
    seconds = time.perf_counter() - began
    return {
        "seconds": round(seconds, 2),
        "extract_gap_ms": gaps(settings, since),
        "server_cpu_per_batch": round((cpu([server]) - before[0]) / batches, 3),
        "flow_cpu_per_batch": round((cpu([ours]) - before[1]) / batches, 3),
        "flow_rss_mb": round(ours.memory_info().rss / 1e6),
        "server_rss_mb": round(server.memory_info().rss / 1e6),
    }


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="tdp-bench-") as home:
        settings = Settings(home=Path(home), server_port=services.free_port())
        with services.installation(settings) as running:
            os.environ.update(services.environment(settings))
            os.environ["PREFECT_LOGGING_LEVEL"] = "WARNING"
            from deployments.apply import apply_basics

            server = running.children[services.prefect_server].process
            asyncio.run(apply_basics(settings))
            for name in names:
                batches, sleeps = WORKLOADS[name]
                asyncio.run(use_sleeping_stages(sleeps))
                best = ideal(batches, sleeps)
                measured = asyncio.run(run_once(settings, batches, server))
                ratio = round(measured["seconds"] / best, 3)
                row = {"name": name, "ratio": ratio, "ideal": round(best, 2), **measured}
                sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:] or list(WORKLOADS))
