"""The pattern of Prefect's documentation: python plain.py BATCHES EXTRACT CONVERT STORE (seconds each)

A flow, one subflow per batch, and one task per stage that holds a slot of the global concurrency limit while
its program runs. Prints the duration and the CPU time in seconds.
"""

from __future__ import annotations

import asyncio
import sys
import time

from prefect import flow, get_client, task
from prefect.concurrency.asyncio import concurrency


@task
async def run(stage: str, seconds: float) -> None:
    async with concurrency(stage, occupy=1, strict=True):
        program = await asyncio.create_subprocess_exec("sleep", str(seconds))
        await program.wait()


@flow
async def process_batch(sleeps: dict[str, float]) -> None:
    for stage, seconds in sleeps.items():
        await run(stage, seconds)


@flow
async def process_all(batches: int, sleeps: dict[str, float]) -> None:
    await asyncio.gather(*(process_batch(sleeps) for _ in range(batches)))


async def main(batches: int, sleeps: dict[str, float]) -> None:
    async with get_client() as client:
        for stage, limit in {"extract": 1, "convert": 1, "store": 5}.items():
            await client.upsert_global_concurrency_limit_by_name(stage, limit)
    began = time.perf_counter()
    await process_all(batches, sleeps)
    sys.stdout.write(f"{time.perf_counter() - began} {time.process_time()}\n")


if __name__ == "__main__":
    asyncio.run(
        main(
            int(sys.argv[1]),
            dict(zip(("extract", "convert", "store"), map(float, sys.argv[2:]), strict=True)),
        )
    )
