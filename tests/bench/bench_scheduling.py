"""The pipeline compared with an ideal schedule: run time relative to lanes without any overhead.

usage: python tests/bench/bench_scheduling.py [--full] [W1|W2|W3] ...   (W1 and W2, with --full W3 as well)

Each workload runs through the whole product (flows, gates, real child processes that sleep) on an
installation of its own. It is compared with the pattern of Prefect's documentation (plain.py), on the same
server and on one with SQLite, and with threads and semaphores that run the same programs.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import frame
import psutil
import psycopg
from frame import Row, row
from pipeline import installed

from flows import services
from flows.settings import Settings

#: Batches, and the seconds each stage sleeps.
WORKLOADS = {
    "W1": (20, {"extract": 0.5, "convert": 0.3, "store": 1.5}),
    "W2": (100, {"extract": 0.1, "convert": 0.05, "store": 0.2}),
    "W3": (12, {"extract": 5.0, "convert": 3.0, "store": 15.0}),
}
LIMITS = {"extract": 1, "convert": 1, "store": 5}
#: Target for the run time relative to the ideal.
TARGETS = {"W1": 1.05, "W2": 2.0, "W3": 1.02}
PLAIN = Path(__file__).with_name("plain.py")
CONTENDER = Path(__file__).parents[1] / "programs" / "contender.py"
#: Timeout for plain.py; on SQLite it may never end.
PATIENCE_SECONDS = 120
MADE = "INSERT INTO batch_processing (file_count) SELECT 0 FROM generate_series(1, %s) RETURNING batch_id"


def ideal(batches: int, sleeps: dict[str, float]) -> float:
    """Return the seconds of a FIFO pipeline with the same limits and no overhead."""
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
        command = ["sh", "-c", f"mkdir {{output}} && : > {{output}}/rows && exec sleep {seconds}"]
        await StageCommand(command=command).save(stage, overwrite=True)


GAPS = """
SELECT percentile_cont(array[0.5, 0.95]) WITHIN GROUP (ORDER BY gap) AS gaps FROM (
    SELECT queued_at, freed_at, 1000 * extract(epoch FROM started_at - freed_at) AS gap FROM (
        SELECT queued_at, started_at, lag(finished_at) OVER (ORDER BY started_at) AS freed_at
        FROM stage_runs WHERE stage = 'extract' AND queued_at >= %s) runs) gaps
WHERE queued_at < freed_at
"""


def gaps(settings: Settings, since: datetime) -> list[float]:
    """Return median and p95 of the idle gaps (ms) of extract while a run was waiting for it."""
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
        os.utime(file, (1, 1))  # old enough to be claimed
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


def threads(batches: int, sleeps: dict[str, float]) -> float:
    """Return the seconds that threads with semaphores take."""
    slots = {stage: threading.Semaphore(LIMITS[stage]) for stage in sleeps}

    def batch() -> None:
        for stage, seconds in sleeps.items():
            with slots[stage]:
                subprocess.run(["sleep", str(seconds)], check=True)  # noqa: S607

    lanes = [threading.Thread(target=batch) for _ in range(batches)]
    began = time.perf_counter()
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    return time.perf_counter() - began


def plain(batches: int, sleeps: dict[str, float], env: Mapping[str, str]) -> float | None:
    """Return the seconds that plain.py takes; None if it fails or exceeds PATIENCE_SECONDS."""
    argv = [sys.executable, str(PLAIN), str(batches), *map(str, sleeps.values())]
    try:
        done = subprocess.run(
            argv, env={**env, "PREFECT_LOGGING_LEVEL": "CRITICAL"}, check=True, text=True,
            stdout=subprocess.PIPE, timeout=PATIENCE_SECONDS,
        )  # fmt: skip
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    return float(done.stdout.split()[-2])


@contextmanager
def sqlite_server() -> Iterator[dict[str, str]]:
    """Run a Prefect server with default settings, on SQLite; yield the environment of its clients."""
    with tempfile.TemporaryDirectory(prefix="tdp-bench-", ignore_cleanup_errors=True) as home:
        port = services.free_port()
        env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        env |= {"PREFECT_HOME": home, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
        argv = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
        # Not in the checkout, because the server would read the settings of its pyproject.toml.
        with subprocess.Popen(argv, env=env, cwd=home, stdout=sys.stderr) as server:
            try:
                wait_healthy(f"{env['PREFECT_API_URL']}/health")
                yield env
            finally:
                server.terminate()


def wait_healthy(url: str) -> None:
    for _ in range(240):
        try:
            with urlopen(url, timeout=5):  # noqa: S310 - a server of this benchmark
                return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(url)


def gap_across_processes(settings: Settings, processes: int = 8, each: int = 10) -> list[float]:
    """Return median and p95 of the idle gaps (ms) of extract while several processes wait for it."""
    with psycopg.connect(settings.database) as connection:
        batches = [batch_id for (batch_id,) in connection.execute(MADE, [processes * each])]
    since = datetime.now(UTC)
    contenders = [
        subprocess.Popen(
            [
                sys.executable,
                str(CONTENDER),
                "gated",
                "extract",
                *batches[n::processes],
                "--",
                "sleep",
                "0.2",
            ],
            stdout=subprocess.DEVNULL,
            stderr=sys.stderr,
        )
        for n in range(processes)
    ]
    for contender in contenders:
        if contender.wait():
            raise RuntimeError("a contender failed")
    return gaps(settings, since)


def measure(_quick: bool, *names: str) -> Iterator[Row]:
    with installed() as running:
        server = running.children[services.prefect_server].process
        for name in names or (list(WORKLOADS) if frame.is_full() else ["W1", "W2"]):
            batches, sleeps = WORKLOADS[name]
            asyncio.run(use_sleeping_stages(sleeps))
            best = ideal(batches, sleeps)
            found = asyncio.run(run_once(running.settings, batches, server))
            yield row(
                f"{name}, over ideal", found["seconds"] / best, "×", most=TARGETS[name], ideal=best, **found
            )
            gap = found["extract_gap_ms"]
            yield row(f"{name}, idle gap of extract, median", gap[0], "ms", most=50, median_and_p95=gap)
            spent = 1000 * (found["server_cpu_per_batch"] + found["flow_cpu_per_batch"])
            yield row(f"{name}, CPU of server and flow per batch", spent, "ms", most=150)
            yield row(f"{name}, memory of the flow", found["flow_rss_mb"], "MB")
            yield row(f"{name}, memory of the server", found["server_rss_mb"], "MB")
            yield row(f"{name}, threads over ideal", threads(batches, sleeps) / best, "×")
            if name != "W3":
                before = cpu([server])
                took = plain(batches, sleeps, os.environ)
                yield beside(f"{name}, plain Prefect over ideal", took, best)
                if took is not None:
                    theirs = (cpu([server]) - before) / batches
                    times = found["server_cpu_per_batch"] / theirs
                    yield row(f"{name}, CPU of the server over plain Prefect", times, "×", plain=theirs)
        gap = gap_across_processes(running.settings)
        yield row("idle gap of extract, 8 processes, median", gap[0], "ms", most=100, median_and_p95=gap)
    with sqlite_server() as env:
        batches, sleeps = WORKLOADS["W1"]
        best = ideal(batches, sleeps)
        yield beside("W1, plain Prefect on SQLite over ideal", plain(batches, sleeps, env), best)


def beside(name: str, seconds: float | None, best: float) -> Row:
    if seconds is None:
        return row(f"{name}: failed or timed out", PATIENCE_SECONDS / best, "× at least")
    return row(name, seconds / best, "×", seconds=seconds)


if __name__ == "__main__":
    frame.run(measure)
