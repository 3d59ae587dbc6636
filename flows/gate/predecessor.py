"""Runs that a new holder of the fence finds unfinished: their work must be gone before its own begins.

The holders of these runs are dead, or have lost their session without having detected it yet: PostgreSQL was
restarted, a session terminated, a flow or its whole host frozen. So the successor does not communicate with
them. On the same host the lock that every process of the work has inherited shows when the work is gone; for
another host the time is waited out within which its supervisor has ended it. Only then is the row closed,
with that time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient

from flows.domain import Log
from flows.gate import slot
from flows.ledger.session import Session, fetch
from flows.stages.runner import work_lock
from flows.stages.runner.host_identity import place
from flows.stages.runner.supervisor import WATCHDOG

#: Seconds after which no work can be alive whose flow has not proved its sessions: the watchdog time of the
#: supervisor, and a margin for ending the tree.
FAR = WATCHDOG + 3.0
#: Seconds between two checks of a lock, and between two messages about it.
_LOOK_EVERY, _SAY_EVERY = 0.02, 5.0


async def close_dead_runs(
    session: Session, dead: Sequence[Mapping[str, Any]], since: float, client: PrefectClient, log: Log
) -> None:
    """Wait until the work of these runs is gone, release the leases they recorded and close their rows as
    LOST.

    ``since`` is when the fence was acquired, by the event loop's clock.
    """
    for run in dead:
        await until_gone(run, since, log)
        if run["lease_id"]:
            await slot.release(client, UUID(run["lease_id"]), log)
        error = f"its process (pid {run['pid']} on {run['host']}) died or was cut off from PostgreSQL"
        await fetch(session, "close_dead_stage_run", stage_run_id=run["stage_run_id"], error=error)
        if run["work_lock"] and run["place"] == place():
            Path(run["work_lock"]).unlink(missing_ok=True)
        log.warning("Closed the %s run of %s as LOST: %s", run["stage"], run["batch_id"], error)


async def until_gone(run: Mapping[str, Any], since: float, log: Log) -> None:
    """Return once no process of the run's work is alive."""
    if run["work_lock"] and run["place"] == place():
        with suppress(FileNotFoundError):  # its flow, if it lives, removes the lock when the work has ended
            await _until_free(Path(run["work_lock"]), run, since, log)
            return
    await asyncio.sleep(since + FAR - asyncio.get_running_loop().time())


async def _until_free(lock: Path, run: Mapping[str, Any], since: float, log: Log) -> None:
    """Look at the lock until it is free. Raises FileNotFoundError."""
    clock = asyncio.get_running_loop().time
    said = clock()
    while not await asyncio.to_thread(work_lock.is_free, lock):
        spared = await asyncio.to_thread(work_lock.end_survivors, lock)
        if clock() - since > FAR and not work_lock.has_begun(lock):
            return  # a supervisor without work, whose flow is frozen: it takes no command any more
        if clock() - said > _SAY_EVERY:
            said = clock()
            who = f"; process {spared[0]} is another user's, end it by hand" if spared else ""
            log.warning("Waiting for the earlier %s run of %s to end%s", run["stage"], run["batch_id"], who)
        await asyncio.sleep(_LOOK_EVERY)
