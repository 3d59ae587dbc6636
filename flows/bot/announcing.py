"""Announce: compare the ledger with the messages about each group of uploads, and send what is missing.

Page 0 of a group is its status message, edited in place; pages 1 and up are the final messages, which name
every file. A page without a message is sent, one with another text is edited. Edits and reactions can be
repeated. A new message cannot, so a crash between sending and recording sends a page twice, but never omits
one.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable
from contextlib import suppress
from datetime import datetime

import msgspec
from psycopg.rows import DictRow
from telegram.error import BadRequest, ChatMigrated, Forbidden, TelegramError

from flows.bot import texts
from flows.bot.api import is_chat_gone, is_message_gone, is_unchanged
from flows.bot.context import Context, signalled
from flows.bot.texts import File

#: Seconds between two comparisons, and between two of groups that have ended.
_LOOK_EVERY, _LOOK_AT_ENDED_EVERY = 1.0, 10.0
#: Seconds between two edits of messages of one chat, and of a group chat.
_EDITS_APART, _EDITS_APART_IN_GROUP = 5.0, 10.0
#: Seconds after the last upload of a group before its final message is sent: the files of an album arrive one
#: by one.
_QUIET = 2.0
#: Most reactions to one chat in one comparison.
_REACTIONS = 5
#: Seconds between two attempts to send to a chat after an error.
_PAUSE = 10.0
RECEIVED = "👍"


class Page(msgspec.Struct, frozen=True):
    """One message of a group; ``message_id`` is None if it is not known whether it was sent."""

    message_id: int | None
    text: str | None


class Group(msgspec.Struct, frozen=True):
    """The uploads of one user in one chat that are announced together, and the messages about them."""

    announcement_id: int
    chat_id: int
    is_closed: bool
    as_of: datetime
    first_message: int
    quiet_sec: float
    files: list[File]
    pages: dict[int, Page]

    @property
    def is_final(self) -> bool:
        """Whether the final message is due."""
        return all(file.is_ended for file in self.files) and (self.is_closed or self.quiet_sec > _QUIET)


class Announcer:
    """Sends the messages that are due; the chats do not wait for each other."""

    def __init__(self, context: Context) -> None:
        """Announce the uploads of ``context.bot``."""
        self._context = context
        self._jobs: dict[int, asyncio.Task[None]] = {}
        self._edit_at: defaultdict[int, float] = defaultdict(float)
        self._try_at: defaultdict[int, float] = defaultdict(float)
        self._looked_at_ended = 0.0

    async def run(self) -> None:
        """Announce until this is cancelled. Raises DatabaseUnavailable."""
        try:
            while True:
                await self.look()
                await signalled(self._context.changed, _LOOK_EVERY)
        finally:
            for job in self._jobs.values():
                job.cancel()
            await asyncio.gather(*self._jobs.values(), return_exceptions=True)

    async def look(self) -> None:
        """Start a job for each chat with something to send, unless one is under way."""
        now = asyncio.get_running_loop().time()
        # Before the ledger is read: a job that ends in between has sent messages that these rows do not show.
        busy = {chat_id for chat_id, job in self._jobs.items() if not job.done()}
        ended = now - self._looked_at_ended > _LOOK_AT_ENDED_EVERY
        self._looked_at_ended = now if ended else self._looked_at_ended
        groups = defaultdict(list)
        for row in await self._context.fetch("live_announcements", closed=ended):
            group = msgspec.convert(row, Group, strict=False)
            groups[group.chat_id].append(group)
        receipts = defaultdict(list)
        for row in await self._context.fetch("reactions_due", each=_REACTIONS):
            receipts[row["chat_id"]].append(row)
        for chat_id in (groups.keys() | receipts.keys()) - busy:
            self._start(chat_id, groups[chat_id], receipts[chat_id], now)

    def _start(self, chat_id: int, groups: list[Group], receipts: list[DictRow], now: float) -> None:
        if (before := self._jobs.pop(chat_id, None)) is not None:
            before.result()
        if now >= self._try_at[chat_id]:
            self._jobs[chat_id] = asyncio.create_task(self._serve(chat_id, groups, receipts))

    async def _serve(self, chat_id: int, groups: list[Group], receipts: list[DictRow]) -> None:
        """Send the messages that are due to one chat, final messages first."""
        try:
            if not self._context.config.announces:
                await self._give_up(groups, "announcements are off")
                return
            for group in sorted(groups, key=lambda group: not group.is_final):
                await self._announce(group)
            for row in receipts:
                await self._react(row)
        except TelegramError as error:
            reason = self._context.config.redact(error)
            self._context.log.warning("A chat cannot be written to now: %s", reason)
            self._try_at[chat_id] = asyncio.get_running_loop().time() + _PAUSE
            if isinstance(error, ChatMigrated):  # the group has become a supergroup: another chat
                await self._context.fetch("move_announcements", chat_id=chat_id, to=error.new_chat_id)
            elif is_chat_gone(error):
                await self._give_up(groups, reason)

    async def _give_up(self, groups: list[Group], reason: str) -> None:
        for group in groups:
            values = {"announcement_id": group.announcement_id, "reason": reason}
            await self._context.fetch("give_up_announcement", **values)

    async def _announce(self, group: Group) -> None:
        if not group.is_final:
            if not group.is_closed:  # the messages of an ended group stay while its batch runs again
                await self._show(group, 0, texts.status_text(group.files))
            return
        pages = texts.outcome_pages(group.files)
        shown = [await self._show(group, number, page) for number, page in enumerate(pages, 1)]
        more = range(len(pages) + 1, max(group.pages, default=0) + 1)  # of a longer text before a retry
        shown += [await self._show(group, number, "See the message above.") for number in more]
        if 0 in group.pages:
            shown.append(await self._show(group, 0, texts.ended_text(group.files, len(pages))))
        is_settled = all(file.is_settled for file in group.files)
        if all(shown) and (is_settled or not group.is_closed):
            values = {"announcement_id": group.announcement_id, "as_of": group.as_of}
            await self._context.fetch("close_announcement", is_settled=is_settled, **values)

    async def _show(self, group: Group, number: int, page: str) -> bool:
        """Send or edit a page unless it has this text; return False if its chat was edited too recently."""
        known = group.pages.get(number)
        if known and known.text == page:
            return True
        if known is None or known.message_id is None:
            await self._send(group, number, page)
            return True
        now = asyncio.get_running_loop().time()
        if now < self._edit_at[group.chat_id]:
            return False
        try:
            await self._context.edit(group.chat_id, known.message_id, page)
        except BadRequest as error:
            if is_message_gone(error):
                await self._send(group, number, page)
                return True
            if not is_unchanged(error):
                raise
        apart = _EDITS_APART if group.chat_id > 0 else _EDITS_APART_IN_GROUP
        self._edit_at[group.chat_id] = asyncio.get_running_loop().time() + apart
        await self._sent(group, number, known.message_id, page)
        return True

    async def _send(self, group: Group, number: int, page: str) -> None:
        values = {"announcement_id": group.announcement_id, "page": number}
        await self._context.fetch("sending_message", **values)
        message = await self._context.send(group.chat_id, page, group.first_message)
        await self._sent(group, number, message.message_id, page)

    async def _sent(self, group: Group, number: int, message_id: int, page: str) -> None:
        values = {"announcement_id": group.announcement_id, "page": number}
        await self._context.fetch("message_sent", message_id=message_id, text=page, **values)

    async def _react(self, row: DictRow) -> None:
        """React to a document as its receipt; this is omitted in a chat that allows no reactions."""
        chat_id, message_id = row["chat_id"], row["message_id"]

        def request() -> Awaitable[bool]:
            return self._context.bot.set_message_reaction(chat_id, message_id, RECEIVED)

        with suppress(BadRequest, ChatMigrated, Forbidden):
            await self._context.chats.send(chat_id, request, is_new=False)
        await self._context.fetch("reacted", upload_id=row["upload_id"])
