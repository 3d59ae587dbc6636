"""The fence: an advisory lock of PostgreSQL that a stage run holds while its work can be running.

Prefect-free. Contract: whoever is inside :func:`fence` is the only living run of its stage's slot, on any
host, until the last process that inherited :attr:`Fence.socket` is gone. Pitfall: a fence says nothing once
its session is lost, so its holder proves the session alive and ends its work when it cannot.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import DictRow

from flows.errors import DatabaseUnavailable, GateLost
from flows.ledger.locks import FENCE, QUEUE, YIELDING, fence_key
from flows.ledger.session import Session, fetch, fetch_one, fetch_together

#: Seconds between two tries for a free slot; only the first in the queue tries.
_SLOT_PAUSE = 0.05
#: A holder asks its session for a sign of life this often, and gives up after that long, in seconds.
_PROOF_EVERY, _PROOF_WITHIN = 1.0, 4.0
#: Position of each stage, and whether it is exclusive: the same in every ledger of a release.
_stages: dict[str, DictRow] = {}


@dataclass
class Fence:
    """A fence that is held: its session, and which of the stage's slots it is (0 for an exclusive stage)."""

    session: Session
    stage: str
    base: int
    slot: int
    #: Rows of the statement that was to run as soon as the fence was held.
    entered: list[DictRow] = field(default_factory=list)
    #: Its holder has opened it already.
    is_open: bool = False

    @property
    def place(self) -> dict[str, Any]:
        """``stage`` and ``slot``, and ``space`` and ``key`` of the advisory lock, as statements take them."""
        return {"stage": self.stage, "slot": self.slot, "space": FENCE, "key": self.base + self.slot}

    @property
    def socket(self) -> int:
        """Descriptor of the session's socket, for the processes whose life must keep the fence closed."""
        return self.session.fileno()

    async def prove_alive(self) -> None:
        """Return never; raise GateLost once the session gives no sign of life in time."""
        while True:
            await asyncio.sleep(_PROOF_EVERY)
            # Not asyncio.timeout: cut off from its server, psycopg first tries for up to 5 s to cancel the
            # query. Not wait_for: before Python 3.12 it loses a cancellation that meets the answer, and the
            # gate would wait for this guard for ever.
            proof = asyncio.ensure_future(fetch(self.session, "alive"))
            proof.add_done_callback(lambda done: done.cancelled() or done.exception())
            try:
                answered, _ = await asyncio.wait([proof], timeout=_PROOF_WITHIN)
                if not answered:
                    raise GateLost("the fence's database session was lost: no answer")
                proof.result()
            except DatabaseUnavailable as error:
                raise GateLost(f"the fence's database session was lost: {error}") from error
            finally:
                proof.cancel()


@asynccontextmanager
async def fence(
    session: Session, stage: str, slots: int, *, yielding: bool = False, then: str = "alive", **values: object
) -> AsyncIterator[Fence]:
    """Hold the fence of ``stage``: its only slot if the stage is exclusive, else one of ``slots``.

    PostgreSQL wakes the waiters of an exclusive stage in order and at once, and runs the statement ``then``
    with these values and :attr:`Fence.place` without waiting for us. Waiters for one of several slots form
    the same kind of queue, and its head tries the slots in turn.

    Of all ``yielding`` runs of a stage at most one queues or works at a time (where there are several slots:
    queues), so that whoever comes waits for one of them at most. If this raises, what it has locked and not
    opened is opened by closing ``session``.
    """
    if stage not in _stages:
        _stages[stage] = await fetch_one(session, "stage_position", stage=stage)
    base, exclusive = fence_key(_stages[stage]["position"]), _stages[stage]["exclusive"]
    queue_only = not exclusive and slots > 1
    if yielding:
        await fetch(session, "take_fence", space=YIELDING, key=base)
    held = Fence(session, stage, base, 0 if exclusive else await _take_slot(session, base, slots))
    values |= held.place
    if exclusive:
        _, held.entered = await fetch_together(session, ("take_fence", values), (then, values))
    else:
        held.entered = await fetch(session, then, **values)
    if yielding and queue_only:
        await fetch(session, "open_fence", space=YIELDING, key=base)
    try:
        yield held
    finally:
        try:
            if not held.is_open:
                await fetch(session, "open_fence", **held.place)
            if yielding and not queue_only:
                await fetch(session, "open_fence", space=YIELDING, key=base)
        except (DatabaseUnavailable, psycopg.Error):
            await session.close()  # a lost session: closing it opens the fence


async def _take_slot(session: Session, base: int, slots: int) -> int:
    await fetch(session, "take_fence", space=QUEUE, key=base)
    while True:
        for row in await fetch(session, "take_free_fence", space=FENCE, key=base, slots=slots):
            await fetch(session, "open_fence", space=QUEUE, key=base)
            slot: int = row["slot"]
            return slot
        await asyncio.sleep(_SLOT_PAUSE)
