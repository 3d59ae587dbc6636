"""The gate, passed by this process and by others."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from prefect.client.orchestration import PrefectClient, get_client

from flows.gate.gate import Held, gate
from flows.gate.process_lanes import Lanes
from flows.ledger.owner import owner
from flows.settings import Settings

PROGRAMS = Path(__file__).parent
LOG = logging.getLogger("test")


@asynccontextmanager
async def process(settings: Settings, *, is_yielding: bool = False) -> AsyncIterator[Lanes]:
    """The lanes of a process of its own."""
    async with owner(settings.database, "test") as own, get_client() as client:
        made = Lanes(own, client, settings.work_locks, is_yielding=is_yielding)
        try:
            yield made
        finally:
            await made.close()


@asynccontextmanager
async def enter(settings: Settings, stage: str, batch_id: str) -> AsyncIterator[Held]:
    """Hold the gate as a process of its own does."""
    async with process(settings) as lanes, enter_lane(lanes, stage, batch_id) as held:
        yield held


def enter_lane(lanes: Lanes, stage: str, batch_id: str) -> AbstractAsyncContextManager[Held]:
    return gate(stage, batch_id, lanes=lanes, log=LOG, environment={"PATH": os.environ["PATH"]})


async def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)
    return value


def contender(how: str, batches: list[str], command: list[str]) -> subprocess.Popen[str]:
    argv = [sys.executable, str(PROGRAMS / "contender.py"), how, "extract", *batches, "--", *command]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def exclusive(tmp_path: Path, name: str, seconds: float) -> list[str]:
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    argv = [str(PROGRAMS / "exclusive.py"), str(tmp_path / "mark"), str(seconds), str(source)]
    return [sys.executable, *argv, str(tmp_path / name)]


async def active(client: PrefectClient, stage: str) -> int:
    return (await client.read_global_concurrency_limit_by_name(stage)).active_slots


async def pass_gate(settings: Settings, batch_id: str, stage: str = "extract") -> None:
    async with enter(settings, stage, batch_id):
        pass
