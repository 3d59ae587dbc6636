"""Read an update: a document, a command, or something that the bot does not accept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from telegram import Bot, Message, Update
from telegram.constants import ChatID, ChatType

from flows.bot.config import Config
from flows.bot.texts import without_hidden

#: Senders that stand for many people.
_ANYBODY = {ChatID.ANONYMOUS_ADMIN, ChatID.SERVICE_CHAT, ChatID.FAKE_CHANNEL}
#: Longest file name in bytes; file systems allow 255, and names in work directories get longer.
_MAX_NAME = 180


@dataclass(frozen=True)
class Sender:
    """Who sent a message, in which chat; ``may_upload`` and ``is_admin`` are the sender's permissions."""

    chat_id: int
    message_id: int
    user_id: int
    name: str
    is_private: bool
    may_upload: bool
    is_admin: bool


@dataclass(frozen=True)
class Document:
    """A document that was sent; ``size`` in bytes, None if Telegram does not say."""

    sender: Sender
    file_id: str
    name: str
    size: int | None


@dataclass(frozen=True)
class Edited:
    """A message with a document that was edited: its caption, or the document itself."""

    sender: Sender
    document: Document


@dataclass(frozen=True)
class Command:
    """A command such as ``/retry batch_000042``: its name without the slash, and what follows it.

    ``is_addressed``: it names this bot, ``/retry@exports_bot``.
    """

    sender: Sender
    name: str
    argument: str
    is_addressed: bool


@dataclass(frozen=True)
class Other:
    """Any other message of a user."""

    sender: Sender


@dataclass(frozen=True)
class Refused:
    """An update without a person as its sender, or an edited text; ``reason`` is for the log."""

    reason: str


Said = Document | Edited | Command | Other | Refused


def read(raw: dict[str, Any], bot: Bot, config: Config, bot_name: str) -> Said:
    """Return the content of an update. Raises any error of the library if it cannot be parsed."""
    update = Update.de_json(raw, bot)
    message = update.message or update.edited_message
    if message is None:
        kinds = ", ".join(sorted(raw.keys() - {"update_id"}))
        return Refused(f"an update of the kind {kinds or 'nothing'}")
    if message.from_user is None or message.sender_chat or message.from_user.id in _ANYBODY:
        return Refused("a message of a channel or an anonymous administrator")
    if message.from_user.is_bot:
        return Refused("a message of a bot")
    sender = _sender(message, config)
    if document := message.document:
        name = safe_name(document.file_name or "")
        sent = Document(sender, document.file_id, name, document.file_size)
        return Edited(sender, sent) if update.edited_message else sent
    if update.edited_message:
        return Refused("an edited message")
    text = message.text or ""
    found = re.match(r"/(\w+)(?:@(\w+))?(?:\s+(.*))?$", text, re.DOTALL)
    if found and (found[2] or bot_name).lower() == bot_name.lower():
        return Command(sender, found[1].lower(), (found[3] or "").strip(), bool(found[2]))
    return Other(sender)


def _sender(message: Message, config: Config) -> Sender:
    user = message.from_user
    assert user is not None  # noqa: S101 - read has checked it
    return Sender(
        chat_id=message.chat.id,
        message_id=message.message_id,
        user_id=user.id,
        name=without_hidden(user.full_name)[:200],
        is_private=message.chat.type == ChatType.PRIVATE,
        may_upload=user.id in config.uploaders | config.admins,
        is_admin=user.id in config.admins,
    )


def safe_name(name: str) -> str:
    """Return the last part of a received file name, as a name that any file system accepts."""
    base = without_hidden(re.split(r"[/\\]", name)[-1]).strip().lstrip(".")
    stem, dot, suffix = base.rpartition(".")
    if not stem or len(suffix.encode()) > 20:
        stem, dot, suffix = base, "", ""
    room = _MAX_NAME - len((dot + suffix).encode())
    stem = stem.encode()[:room].decode(errors="ignore")
    return f"{stem}{dot}{suffix}" or "document"
