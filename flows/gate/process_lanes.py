"""The lanes of one flow run: one for each stage, and what they share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path

from prefect.client.orchestration import PrefectClient, get_client

from flows.gate.lane import Lane
from flows.ledger.owner import Owner
from flows.stages.runner.completion import to_the_end

_current: ContextVar[Lanes | None] = ContextVar("lanes", default=None)


class Lanes:
    """The lanes of this process for the runs that ``owner`` owns. Made by :func:`lanes`."""

    def __init__(self, owner: Owner, client: PrefectClient, locks: Path, *, is_yielding: bool) -> None:
        """``locks`` is the folder of the work locks; ``is_yielding``: other processes go first."""
        self.owner = owner
        self.client = client
        self.locks = locks
        self._is_yielding = is_yielding
        self._lanes: dict[str, Lane] = {}

    async def lane(self, stage: str) -> Lane:
        """Return the lane of ``stage``."""
        if stage not in self._lanes:
            (row,) = await self.owner.fetch("stage_position", stage=stage)
            position, is_exclusive = row["position"], row["exclusive"]
            lane = Lane(stage, position, is_exclusive, self.owner.url, self.client, self._is_yielding)
            self._lanes.setdefault(stage, lane)
        return self._lanes[stage]

    async def close(self) -> None:
        """Release what the lanes keep, and close their sessions."""
        await asyncio.gather(*(lane.close() for lane in self._lanes.values()))


@asynccontextmanager
async def lanes(owner: Owner, locks: Path, *, is_yielding: bool = False) -> AsyncIterator[Lanes]:
    """Yield the lanes of this flow run, or new ones for the body if there are none."""
    if current := _current.get():
        yield current
        return
    async with get_client() as client:
        new = Lanes(owner, client, locks, is_yielding=is_yielding)
        token = _current.set(new)
        try:
            yield new
        finally:
            _current.reset(token)
            await to_the_end(new.close())
