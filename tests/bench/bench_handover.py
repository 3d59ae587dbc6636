"""Crash handover: the delay that a kill causes for the next waiter, and for the killed batch itself.

usage: python tests/bench/bench_handover.py [--quick] [KILLS]

First, another process holds extract with a running child and receives SIGKILL, while the next waiter is in
this process: the seconds from the kill until the waiter enters the gate. Then the retry of the killed batch,
from the kill to the start of its next extract. Either the program of a stage is killed while its flow lives
(KILLS batches at once, so their retries also wait for each other at the gate). Or a flow is killed under its
worker, again and again as soon as it has restarted; no schedule is active, and recovery starts a flow at most
once in a fixed interval, so only the first kill is not delayed by that interval.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import frame
import psutil
import psycopg
from bench_growth import drop
from frame import Row, row
from pipeline import installed

from flows import services
from flows.services import Installation
from flows.settings import Settings

CONTENDER = Path(__file__).parents[1] / "programs" / "contender.py"
MADE = "INSERT INTO batch_processing (file_count) SELECT 0 FROM generate_series(1, %s) RETURNING batch_id"
WAITS = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
AT_WORK = """
SELECT stage_run_id, batch_id, pid FROM stage_runs
WHERE stage = 'extract' AND started_at IS NOT NULL AND finished_at IS NULL
"""
NEXT_START = """
SELECT extract(epoch FROM min(started_at))::float8 FROM stage_runs
WHERE batch_id = %s AND stage = 'extract' AND stage_run_id > %s
"""
DONE = "UPDATE batch_processing SET status = 'COMPLETED'"
#: The name of the program to kill; the shell has replaced itself by it.
HANGS = "sleep"


async def handover(settings: Settings, held: str, waiting: str) -> float:
    from flows.gate.gate import gate
    from flows.gate.process_lanes import lanes
    from flows.ledger.owner import owner

    command = [sys.executable, str(CONTENDER), "gated", "extract", held, "--", "sleep", "600"]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
    assert holder.stdout is not None
    await asyncio.to_thread(holder.stdout.readline)
    entered = asyncio.Event()

    async def enter() -> None:
        async with (
            owner(settings.database, "bench") as own,
            lanes(own, settings.work_locks) as own_lanes,
            gate("extract", waiting, lanes=own_lanes, log=logging.getLogger("bench")),
        ):
            entered.set()

    waiter = asyncio.create_task(enter())
    with psycopg.connect(settings.database, autocommit=True) as connection:
        while not connection.execute(WAITS).fetchone():
            await asyncio.sleep(0.01)
    killed = time.perf_counter()
    holder.kill()
    await entered.wait()
    seconds = time.perf_counter() - killed
    await waiter
    holder.wait()
    return seconds


async def use_hanging_extract(script: str) -> None:
    from blocks import StageCommand

    leaves_output = "mkdir {output} && : > {output}/rows"
    for stage in ("extract", "convert", "store"):
        command = script if stage == "extract" else ""
        await StageCommand(command=["sh", "-c", command + leaves_output]).save(stage, overwrite=True)


async def retries_of_programs(running: Installation, kills: int) -> list[float]:
    """Return the seconds from the kill of the first extract of each batch to the start of its second."""
    from flows.process_inbox import process_inbox

    # The first extract of each batch hangs.
    await use_hanging_extract(f"mkdir {running.settings.root}/{{batch_id}} 2>&- && exec {HANGS} 600; ")
    drop(running, kills)
    work = asyncio.create_task(process_inbox(batch_size=1, window=kills))
    killed: dict[tuple[str, int], float] = {}
    with psycopg.connect(running.settings.database, autocommit=True) as connection:
        while not work.done():
            holder = connection.execute(AT_WORK).fetchone()
            for program in psutil.Process().children(recursive=True) if holder else []:
                with suppress(psutil.NoSuchProcess):
                    if holder and program.name() == HANGS:
                        program.kill()
                        killed.setdefault((holder[1], holder[0]), time.time())
            await asyncio.sleep(0.05)
        await work
        starts = [connection.execute(NEXT_START, [*key]).fetchone() for key in killed]
    return [start[0] - at for start, at in zip(starts, killed.values(), strict=True) if start]


async def retries_of_flows(running: Installation, kills: int) -> list[float]:
    """Return the seconds from the kill of a flow run under a worker to the next extract of its batch."""
    from prefect.client.orchestration import get_client

    from deployments.apply import apply

    await use_hanging_extract(f"exec {HANGS} 600; ")
    await apply(running.settings)
    drop(running, 1)
    seconds = []
    with (
        services.worker(running.settings),
        services.recovery(running.settings),
        psycopg.connect(running.settings.database, autocommit=True) as connection,
    ):
        async with get_client() as client:
            for deployment in await client.read_deployments():
                for schedule in deployment.schedules:
                    await client.update_deployment_schedule(deployment.id, schedule.id, active=False)
            inbox = await client.read_deployment_by_name("process-inbox/scheduled")
            await client.create_flow_run_from_deployment(inbox.id)
        holder = await first_row(connection, AT_WORK)
        for _ in range(kills):
            killed = time.time()
            os.kill(holder[2], signal.SIGKILL)
            started = f"{AT_WORK} AND stage_run_id > %s"
            following = await first_row(connection, started, holder[0])
            assert following[1] == holder[1]
            (start,) = await first_row(connection, NEXT_START, holder[1], holder[0])
            seconds.append(start - killed)
            holder = following
    return seconds


async def first_row(connection: psycopg.Connection[Any], query: str, *values: object) -> tuple[Any, ...]:
    while not (found := connection.execute(query.encode(), values).fetchone()):
        await asyncio.sleep(0.05)
    return tuple(found)


def measure(quick: bool, kills: str = "") -> Iterator[Row]:
    count = int(kills or (5 if quick else 20))
    with installed() as running:
        with psycopg.connect(running.settings.database) as connection:
            batches = [row[0] for row in connection.execute(MADE, [2 * count])]
        pairs = zip(batches[::2], batches[1::2], strict=True)
        seconds = [asyncio.run(handover(running.settings, *pair)) for pair in pairs]
        yield row(f"entry of the next holder, median of {count}", median(seconds), "s", most=2, all=seconds)
        yield row(f"entry of the next holder, worst of {count}", max(seconds), "s", most=5)
        with psycopg.connect(running.settings.database) as connection:
            connection.execute(DONE)  # otherwise the next runs would claim them
        for whose, retries in (("program", retries_of_programs), ("flow", retries_of_flows)):
            seconds = asyncio.run(retries(running, count))
            yield row(f"retry after the {whose} was killed, median", median(seconds), "s", all=seconds)
            yield row(f"retry after the {whose} was killed, worst of {len(seconds)}", max(seconds), "s")


if __name__ == "__main__":
    frame.run(measure)
