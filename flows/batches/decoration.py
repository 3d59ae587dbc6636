"""Artifacts and events that a run shows in Prefect; their failure does not affect the run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from prefect.events import emit_event

from flows.domain import Log

#: Seconds for which a run waits for its artifacts; they may still be written after that.
_WITHIN = 5.0


async def decorate(writing: Awaitable[object], what: str, log: Log) -> None:
    """Wait for ``writing`` for some seconds; an error, or an unavailable server, is only logged.

    A request that is cancelled while it is under way would cost httpx a connection permanently, so a longer
    request continues in the background.
    """
    task = asyncio.ensure_future(writing)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    done, _ = await asyncio.wait([task], timeout=_WITHIN)
    if not done:
        log.warning("The artifact of %s is not written yet: the Prefect server does not respond", what)
    elif error := task.exception():
        log.warning("The artifact of %s could not be written: %r", what, error)


def report_failure(name: str, detail: str) -> None:
    """Emit the event that triggers the automation of this name in ``deployments/automations.py``."""
    resource = {"prefect.resource.id": f"tdp.condition.{name}", "prefect.resource.name": name}
    emit_event("tdp.condition.raised", resource=resource, payload={"detail": detail})
