"""Work that must be done to its end, whatever cancels the task that waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(work: Awaitable[T]) -> T:
    """Return the result of ``work``, which cancellations do not reach; raise the last of them afterwards.

    A future or task given more than once is awaited by all that give it: there is one end of a tree, and a
    timeout, a Cancel and Ctrl-C together wait for that one.
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
