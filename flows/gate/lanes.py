"""The lanes of one flow run: one for each stage, and what they share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path

from flows.gate.lane import Lane
from flows.ledger.owner import Owner

_current: ContextVar[Lanes | None] = ContextVar("lanes", default=None)


class Lanes:
    """The lanes of this process for the runs that ``owner`` owns. Made by :func:`lanes`."""

    def __init__(self, owner: Owner, locks: Path, *, is_yielding: bool) -> None:
        """``locks`` is the folder of the work locks; ``is_yielding``: other processes go first."""
        self.owner = owner
        self.locks = locks
        self._is_yielding = is_yielding
        self._lanes: dict[str, Lane] = {}

    async def lane(self, stage: str) -> Lane:
        """Return the lane of ``stage``."""
        if stage not in self._lanes:
            (row,) = await self.owner.fetch("stage_position", stage=stage)
            self._lanes.setdefault(
                stage, Lane(stage, row["position"], row["exclusive"], self.owner.url, self._is_yielding)
            )
        return self._lanes[stage]

    async def close(self) -> None:
        """Close the sessions of all lanes."""
        for lane in self._lanes.values():
            await lane.close()


@asynccontextmanager
async def lanes(owner: Owner, locks: Path, *, is_yielding: bool = False) -> AsyncIterator[Lanes]:
    """Yield the lanes of this flow run, or new ones for the body if there are none."""
    if current := _current.get():
        yield current
        return
    new = Lanes(owner, locks, is_yielding=is_yielding)
    token = _current.set(new)
    try:
        yield new
    finally:
        _current.reset(token)
        await new.close()
