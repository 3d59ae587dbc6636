"""One sender per chat: requests to a chat are made one after the other, within the rate limits of
Telegram."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import TypeVar

from telegram.error import RetryAfter

from flows.bot.api import retry_seconds

#: Seconds between two new messages to one chat: Telegram allows one per second, and 20 per minute to a group.
_APART, _APART_IN_GROUP = 1.0, 3.0
T = TypeVar("T")


class Chats:
    """The time from which on each chat can be written to again."""

    def __init__(self) -> None:
        """No chat has to wait."""
        self._locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._free_at: defaultdict[int, float] = defaultdict(float)

    async def send(self, chat_id: int, request: Callable[[], Awaitable[T]], *, is_new: bool = True) -> T:
        """Make ``request`` in its turn and return its result. Raises TelegramError.

        ``is_new``: it sends a new message, and does not edit one. If Telegram asks for a pause (RetryAfter),
        it is made again after the pause.
        """
        loop = asyncio.get_running_loop()
        async with self._locks[chat_id]:
            while True:
                if (pause := self._free_at[chat_id] - loop.time()) > 0:
                    await asyncio.sleep(pause)
                try:
                    result = await request()
                except RetryAfter as error:
                    self._free_at[chat_id] = loop.time() + (retry_seconds(error) or 1.0)
                    continue
                if is_new:
                    apart = _APART if chat_id > 0 else _APART_IN_GROUP
                    self._free_at[chat_id] = loop.time() + apart
                return result
