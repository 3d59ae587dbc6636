"""Work that is completed even if the task that waits for it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(work: Awaitable[T]) -> T:
    """Return the result of ``work``; cancellations do not reach it, and the last one is raised afterwards.

    Several callers may pass the same future or task, and all of them await it: a process tree is ended once,
    and a timeout, Cancel and Ctrl-C at the same time wait for that end.
    """
    future = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            if future.cancelled():
                raise
            cancelled = error
        except BaseException:
            if not future.done():
                raise  # SIGTERM, which Prefect raises at whatever point the process has reached
    if cancelled:
        future.exception()
        raise cancelled
    return future.result()
