"""The objects that all parts of the running bot share."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field

import httpx
from psycopg.rows import DictRow
from telegram import Bot, LinkPreviewOptions, Message, MessageEntity, ReplyParameters

from flows.bot import texts
from flows.bot.chats import Chats
from flows.bot.config import Config
from flows.domain import Log
from flows.ledger.session import Session, fetch
from flows.settings import Settings

_NO_PREVIEW = LinkPreviewOptions(is_disabled=True)  # file names and links in reasons are only text
_NAMES = re.compile(f"(?<={texts.ISOLATE})[^{texts.ISOLATE}{texts.END}]+(?={texts.END})")


@dataclass
class Context:
    """The bot at work. ``session`` holds the lock of the poller; ``intake`` may wait for the intake lock.

    A session is never used for transactions, because several tasks share it.
    """

    settings: Settings
    config: Config
    bot: Bot
    name: str
    http: httpx.AsyncClient
    session: Session
    intake: Session
    log: Log
    chats: Chats = field(default_factory=Chats)
    #: Set when there is something new: an upload was seen, received or refused.
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    uploaded: asyncio.Event = field(default_factory=asyncio.Event)

    async def fetch(self, statement: str, /, **values: object) -> list[DictRow]:
        """Run a named statement for this bot in the session of the poller."""
        return await fetch(self.session, statement, bot_id=self.config.bot_id, **values)

    async def send(self, chat_id: int, text: str, reply_to: int | None = None) -> Message:
        """Send a message of plain text in its turn. Raises TelegramError."""
        text = texts.cut(text)
        reply = ReplyParameters(reply_to, allow_sending_without_reply=True) if reply_to else None
        return await self.chats.send(
            chat_id,
            lambda: self.bot.send_message(
                chat_id,
                text,
                entities=names_in(text),
                reply_parameters=reply,
                link_preview_options=_NO_PREVIEW,
            ),
        )

    async def edit(self, chat_id: int, message_id: int, text: str) -> None:
        """Edit a message of the bot. Raises TelegramError."""
        await self.chats.send(
            chat_id,
            lambda: self.bot.edit_message_text(
                text, chat_id, message_id, entities=names_in(text), link_preview_options=_NO_PREVIEW
            ),
            is_new=False,
        )


def names_in(text: str) -> list[MessageEntity]:
    """Return the file names in a message as code, of which Telegram makes no links and no mentions."""
    return [
        MessageEntity(MessageEntity.CODE, texts.units(text[: found.start()]), texts.units(found[0]))
        for found in _NAMES.finditer(text)
    ]


async def signalled(event: asyncio.Event, seconds: float) -> None:
    """Wait until ``event`` is set, at most ``seconds``, and clear it."""
    waiter = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([waiter], timeout=seconds)
    finally:
        waiter.cancel()
    event.clear()
