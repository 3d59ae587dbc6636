"""Growth: the cost of one small batch among 10, 100 or 1,000 batches.

usage: python tests/bench/bench_growth.py [--quick] [BATCHES ...]

One installation and one flow process for all, so that accumulated state has an effect. The stages do nothing:
the benchmark measures the overhead of the pipeline. CPU is that of the server, its database and the flow.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Any

import frame
import psutil
import psycopg
from bench_scheduling import use_sleeping_stages
from frame import Row, row
from pipeline import NOTHING, cpu, installed

from flows import services
from flows.services import Installation


def drop(running: Installation, batches: int) -> None:
    running.settings.inbox.mkdir(parents=True, exist_ok=True)
    for number in range(batches):
        file = running.settings.inbox / f"{time.time_ns()}-{number}.zip"
        file.write_text(file.name)
        os.utime(file, (1, 1))  # old enough to be claimed


def database_bytes(running: Installation) -> dict[str, int]:
    with psycopg.connect(running.settings.database) as connection:
        sizes = "SELECT datname, pg_database_size(datname) FROM pg_database WHERE datname = ANY (%s)"
        names = ["tdp", running.settings.prefect_database]
        return dict(connection.execute(sizes, [names]).fetchall())


def usage(running: Installation) -> dict[str, float]:
    me, server = psutil.Process(), running.children[services.prefect_server].process
    return {
        "flow": sum(me.cpu_times()[:2]),
        "server": cpu(server),
        "postgres": cpu(running.children[services.postgres].process),
    }


async def run(running: Installation, batches: int) -> dict[str, Any]:
    from flows.process_inbox import process_inbox

    drop(running, batches)
    sizes, before, began = database_bytes(running), usage(running), time.perf_counter()
    await process_inbox(batch_size=1)
    seconds = time.perf_counter() - began
    spent = {name: (value - before[name]) / batches for name, value in usage(running).items()}
    grown = {name: (size - sizes[name]) / batches / 1000 for name, size in database_bytes(running).items()}
    server = running.children[services.prefect_server].process
    return {
        "seconds": seconds / batches,
        "cpu": spent,
        "kb": grown,
        "flow_mb": psutil.Process().memory_info().rss / 1e6,
        "server_mb": server.memory_info().rss / 1e6,
    }


def measure(quick: bool, *sizes: str) -> Iterator[Row]:
    counts = [int(size) for size in sizes] or ([10, 50] if quick else [10, 100, 1_000])
    with installed() as running:
        asyncio.run(use_sleeping_stages(NOTHING))
        asyncio.run(run(running, 10))  # warm-up: work that is done only once
        done = {}
        for count in counts:
            done[count] = found = asyncio.run(run(running, count))
            yield row(f"{count:,} batches: wall per batch", 1000 * found["seconds"], "ms", **found)
            cpu_ms = 1000 * (found["cpu"]["server"] + found["cpu"]["flow"])
            yield row(f"{count:,} batches: CPU of server and flow per batch", cpu_ms, "ms", most=150)
            yield row(f"{count:,} batches: database growth per batch", sum(found["kb"].values()), "kB")
            yield row(f"{count:,} batches: memory of the flow", found["flow_mb"], "MB")
            yield row(f"{count:,} batches: memory of the server", found["server_mb"], "MB")
    least, most = done[counts[0]], done[counts[-1]]
    label = f"{counts[-1]:,} batches over {counts[0]:,}"
    yield row(f"{label}: wall per batch", most["seconds"] / least["seconds"], "×", most=1.1)
    spent = sum(most["cpu"].values()) / sum(least["cpu"].values())
    yield row(f"{label}: CPU per batch, with PostgreSQL", spent, "×", most=1.1)
    yield row(f"{label}: memory of the flow", most["flow_mb"] / least["flow_mb"], "×", most=1.1)


if __name__ == "__main__":
    frame.run(measure)
