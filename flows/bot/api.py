"""The Bot API through python-telegram-bot's ``Bot`` class alone, and what its errors mean to us.

Its own polling acknowledges an update before the handler has succeeded, and its download keeps the whole file
in memory, so neither is used.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from telegram import Bot
from telegram.error import BadRequest, EndPointNotFound, Forbidden, InvalidToken, RetryAfter, TelegramError
from telegram.request import HTTPXRequest

from flows.bot.config import Config

# The type that retry_after will have in the library's next major version.
os.environ.setdefault("PTB_TIMEDELTA", "true")

#: Seconds for which one getUpdates waits for an update.
POLL_SECONDS = 25
#: Kinds of updates that Telegram is to send. A file that replaces another one in a message comes as an edit.
_KINDS = ["message", "edited_message"]
#: Seconds that getFile may take: a server in local mode downloads the file meanwhile.
_FILE_SECONDS, _LOCAL_FILE_SECONDS = 60.0, 3600.0
_REQUEST_SECONDS = 30.0


def make_bot(config: Config) -> Bot:
    """Return the library's bot; its requests go to the server of ``config``."""
    request = HTTPXRequest(
        connection_pool_size=32,
        read_timeout=_REQUEST_SECONDS,
        write_timeout=_REQUEST_SECONDS,
        connect_timeout=10.0,
        pool_timeout=_REQUEST_SECONDS,
    )
    return Bot(
        config.token,
        base_url=f"{config.api_url}/bot",
        base_file_url=f"{config.api_url}/file/bot",
        request=request,
    )


async def get_updates(bot: Bot, offset: int | None, seconds: int = POLL_SECONDS) -> list[dict[str, Any]]:
    """Return new updates as Telegram sent them, and acknowledge those before ``offset``.

    If there is none, one is waited for, at most ``seconds``.

    Raw, because one update that the library cannot parse would hide all others of the answer. (Methods of the
    Bot API are not case-sensitive; under its usual name the library warns of calling this one raw.) Raises
    TelegramError.
    """
    wanted = {"timeout": seconds, "allowed_updates": _KINDS} | ({"offset": offset} if offset else {})
    try:
        updates: Any = await bot.do_api_request(
            "getupdates", api_kwargs=wanted, read_timeout=seconds + _REQUEST_SECONDS
        )
    except EndPointNotFound as error:  # so the library calls 401 and 404 of a raw request
        raise InvalidToken("the Bot API server does not accept the token") from error
    return list(updates)


async def file_path(bot: Bot, config: Config, file_id: str) -> tuple[str, int | None]:
    """Return where a document can be read now, and its size in bytes: a URL, or a path in local mode.

    A URL is valid for an hour. Raises TelegramError.
    """
    seconds = _LOCAL_FILE_SECONDS if config.local_mode else _FILE_SECONDS
    found = await bot.get_file(file_id, read_timeout=seconds)
    where = found.file_path or ""
    if config.local_mode:  # the library makes a URL of a path that does not exist on this machine
        where = where.removeprefix(f"{bot.base_file_url}/")
    return where, found.file_size


def retry_seconds(error: Exception) -> float | None:
    """Return for how long Telegram asks us to wait; None if the error is another one."""
    if not isinstance(error, RetryAfter):
        return None
    after = error.retry_after
    return after.total_seconds() if isinstance(after, timedelta) else float(after)


def is_unchanged(error: TelegramError) -> bool:
    """Return whether the error says that a message has the text already."""
    return isinstance(error, BadRequest) and "not modified" in error.message.lower()


def is_message_gone(error: TelegramError) -> bool:
    """Return whether the error says that the message to edit does not exist any more."""
    words = ("message to edit not found", "message can't be edited", "message_id_invalid")
    return isinstance(error, BadRequest) and any(word in error.message.lower() for word in words)


def is_chat_gone(error: TelegramError) -> bool:
    """Return whether nothing can be sent to the chat any more: the user has blocked the bot, or left."""
    words = ("chat not found", "user is deactivated", "peer_id_invalid", "not enough rights")
    refused = isinstance(error, BadRequest) and any(word in error.message.lower() for word in words)
    return isinstance(error, Forbidden) or refused


def is_too_big(error: TelegramError) -> bool:
    """Return whether the server refuses to hand out a file because of its size."""
    return isinstance(error, BadRequest) and "too big" in error.message.lower()
