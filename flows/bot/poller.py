"""The poller: commits the content of an update before it requests the next one from Telegram.

An update is acknowledged by the offset of the next getUpdates, which is sent after the commit. The offset is
not stored: after a week without updates Telegram begins with other update ids, which may be lower.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from psycopg import OperationalError
from telegram.error import Conflict, TelegramError

from flows.bot import api, texts
from flows.bot.api import get_updates, retry_seconds
from flows.bot.context import Context
from flows.bot.updates import Command, Document, Edited, Other, Refused, Said, Sender, read
from flows.errors import DatabaseUnavailable

#: Seconds between two requests after a failure: doubled from the first to the second. After a conflict it
#: is always the third.
_FIRST_PAUSE, _LAST_PAUSE, _CONFLICT_PAUSE = 0.5, 30.0, 3.0
#: Seconds between two answers to messages that are neither documents nor commands: fifty photos get one.
_HINTS_APART = 60.0

#: Answers a command; raises TelegramError.
Answer = Callable[[Command], Awaitable[None]]


class Poller:
    """Receives updates. Commands are answered by ``answer``, while later updates are received."""

    def __init__(self, context: Context, answer: Answer) -> None:
        """Poll for ``context.bot``, whose lock is held."""
        self._context = context
        self._answer = answer
        self._answers: set[asyncio.Task[None]] = set()
        self._hinted_at: dict[int, float] = {}

    async def run(self) -> None:
        """Poll until this is cancelled. Raises DatabaseUnavailable."""
        try:
            await self._poll()
        finally:
            for answer in self._answers:
                answer.cancel()
            await asyncio.gather(*self._answers, return_exceptions=True)

    async def _poll(self) -> None:
        offset, pause, seconds = (
            None,
            _FIRST_PAUSE,
            0,
        )  # the first response, at once, proves that polling works
        while True:
            try:
                updates = await get_updates(self._context.bot, offset, seconds)
            except TelegramError as error:
                await self._failed(error)
                wait = _CONFLICT_PAUSE if isinstance(error, Conflict) else retry_seconds(error) or pause
                await asyncio.sleep(wait)
                pause = min(2 * pause, _LAST_PAUSE)
                continue
            pause, seconds = _FIRST_PAUSE, api.POLL_SECONDS
            await self._context.fetch("bot_polled")
            for update in updates:
                await self._commit(update)
            offset = updates[-1]["update_id"] + 1 if updates else None

    async def _failed(self, error: TelegramError) -> None:
        reason = self._context.config.redact(error)
        is_conflict = isinstance(error, Conflict)
        self._context.log.warning("getUpdates failed: %s", reason)
        await self._context.fetch("bot_failed", error=reason, is_conflict=is_conflict)

    async def _commit(self, update: dict[str, Any]) -> None:
        """Record the content of the update. An update that cannot be read is kept, and does not block the
        others."""
        context = self._context
        try:
            said = read(update, context.bot, context.config, context.name)
            await self._record(said)
        except (DatabaseUnavailable, OperationalError):
            raise
        except Exception as error:
            reason = context.config.redact(f"{type(error).__name__}: {error}")
            context.log.error("Update %s cannot be read and is skipped: %s", update.get("update_id"), reason)
            content = json.dumps(update)
            number = update.get("update_id")
            await context.fetch("keep_bot_update", update_id=number, content=content, error=reason)

    async def _record(self, said: Said) -> None:
        if isinstance(said, Refused):
            self._context.log.info("Ignored: %s", said.reason)
        elif isinstance(said, Edited):
            await self._see_edited(said.document)
        elif not said.sender.may_upload:
            await self._answer_stranger(said)
        elif isinstance(said, Document):
            await self._see(said)
        elif isinstance(said, Command):
            self._start(self._answer(said))
        elif said.sender.is_private and self._may_hint(said.sender.chat_id):
            self._start(self._send(said.sender, texts.SEND_FILES))

    async def _see_edited(self, document: Document) -> None:
        """Tell a user who has replaced a file that the new one was not received. Captions may change."""
        sender = document.sender
        if not sender.may_upload:
            return
        values = {"chat_id": sender.chat_id, "message_id": sender.message_id}
        same = await self._context.fetch(
            "upload_as_sent", file_name=document.name, size_bytes=document.size, **values
        )
        if not same:
            self._start(self._send(sender, texts.REPLACED))

    def _may_hint(self, chat_id: int) -> bool:
        now = asyncio.get_running_loop().time()
        if now - self._hinted_at.get(chat_id, -_HINTS_APART) < _HINTS_APART:
            return False
        self._hinted_at[chat_id] = now
        return True

    async def _see(self, document: Document) -> None:
        sender, size = document.sender, document.size
        too_big = size is not None and size > self._context.config.max_bytes
        seen = await self._context.fetch(
            "see_upload",
            chat_id=sender.chat_id,
            message_id=sender.message_id,
            user_id=sender.user_id,
            user_name=sender.name,
            file_id=document.file_id,
            file_name=document.name,
            size_bytes=size,
            state="REFUSED" if too_big else "SEEN",
            reason=texts.too_big(self._context.config) if too_big else None,
        )
        if seen:
            self._context.log.info("Upload %d: seen", seen[0]["upload_id"])
            self._context.uploaded.set()
            self._context.changed.set()

    async def _answer_stranger(self, said: Document | Command | Other) -> None:
        """Reply once to a user who is on no list, with the user's id; in groups only to a document."""
        if not said.sender.is_private and not isinstance(said, Document):
            return
        if await self._context.fetch("answer_stranger", user_id=said.sender.user_id):
            self._start(self._send(said.sender, texts.stranger(said.sender.user_id)))

    async def _send(self, sender: Sender, text: str) -> None:
        await self._context.send(sender.chat_id, text, sender.message_id)

    def _start(self, answering: Awaitable[None]) -> None:
        task = asyncio.ensure_future(self._logged(answering))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _logged(self, answering: Awaitable[None]) -> None:
        try:
            await answering
        except Exception as error:  # a failed answer must not end the task that sends the others
            self._context.log.warning("An answer was not sent: %s", self._context.config.redact(error))
