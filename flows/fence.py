"""The fence: an advisory lock of PostgreSQL that a stage run holds while its work can be running.

Prefect-free. Contract: whoever is inside :func:`fence` is the only living run of its stage's slot, on any
host, until the last process that inherited :attr:`Fence.socket` is gone. Pitfall: a fence says nothing once
its session is lost, so its holder proves the session alive and ends its work when it cannot.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg

from flows.errors import DatabaseUnavailable, GateLost
from flows.ledger.session import Session, fetch, fetch_one

#: Name spaces of two-part advisory locks: "tdpg" (gate), "tdpq" (the queue before a gate with slots) and
#: "tdpb" (the place of the one yielding run in a queue).
_GATE, _QUEUE, _YIELD = 0x74647067, 0x74647071, 0x74647062
#: Seconds between two tries for a free slot; only the first in the queue tries.
_SLOT_PAUSE = 0.05
#: A holder asks its session for a sign of life this often, and gives up after that long, in seconds.
_PROOF_EVERY, _PROOF_WITHIN = 1.0, 4.0


@dataclass(frozen=True)
class Fence:
    """A fence that is held: its session, and which of the stage's slots it is (0 for an exclusive stage)."""

    session: Session
    stage: str
    base: int
    slot: int

    @property
    def place(self) -> dict[str, Any]:
        """``stage`` and ``slot``, as the ledger's statements take them."""
        return {"stage": self.stage, "slot": self.slot}

    @property
    def lock(self) -> dict[str, int]:
        """``space`` and ``key`` of the advisory lock, as the ledger's statements take them."""
        return {"space": _GATE, "key": self.base + self.slot}

    async def park(self, lease_id: UUID, taken_at: datetime, within: float) -> bool:
        """Leave a lease younger than ``within`` seconds for the run that waits for this fence.

        False if none does. Nobody waits for one of several slots: the head of their queue takes any.
        """
        lease = {**self.place, "lease_id": lease_id, "taken_at": taken_at}
        return bool(await fetch(self.session, "park_lease", **self.lock, **lease, within=within))

    @property
    def socket(self) -> int:
        """Descriptor of the session's socket, for the processes whose life must keep the fence closed."""
        return self.session.fileno()

    async def prove_alive(self) -> None:
        """Return never; raise GateLost once the session gives no sign of life in time."""
        while True:
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
            await asyncio.sleep(_PROOF_EVERY)


@asynccontextmanager
async def fence(session: Session, stage: str, slots: int, *, yielding: bool = False) -> AsyncIterator[Fence]:
    """Hold the fence of ``stage``: its only slot if the stage is exclusive, else one of ``slots``.

    PostgreSQL wakes the waiters of an exclusive stage in order and at once. Waiters for one of several slots
    form the same kind of queue, and its head tries the slots in turn.

    Of all ``yielding`` runs of a stage at most one queues or works at a time (where there are several slots:
    queues), so that whoever comes waits for one of them at most. It makes way when ``session`` is closed.
    """
    row = await fetch_one(session, "stage_position", stage=stage)
    base = 1000 * row["position"]
    if yielding:
        await fetch(session, "take_fence", space=_YIELD, key=base)
    if row["exclusive"]:
        slot = 0
        await fetch(session, "take_fence", space=_GATE, key=base)
    else:
        slot = await _take_slot(session, base, slots)
        if yielding and slots > 1:
            await fetch(session, "open_fence", space=_YIELD, key=base)
    try:
        yield Fence(session, stage, base, slot)
    finally:
        try:
            await fetch(session, "open_fence", space=_GATE, key=base + slot)
        except (DatabaseUnavailable, psycopg.Error):
            await session.close()  # a lost session: closing it opens the fence


async def _take_slot(session: Session, base: int, slots: int) -> int:
    await fetch(session, "take_fence", space=_QUEUE, key=base)
    try:
        while True:
            for slot in range(slots):
                if (await fetch_one(session, "try_fence", space=_GATE, key=base + slot))["taken"]:
                    return slot
            await asyncio.sleep(_SLOT_PAUSE)
    finally:
        await fetch(session, "open_fence", space=_QUEUE, key=base)
