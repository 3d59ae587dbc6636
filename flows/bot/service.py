"""The bot as a service: sessions, the lock of the poller, and its parts until one of them fails.

After any failure the service restarts after a pause: each part continues from the ledger.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import httpx
import psycopg2
from psycopg import Error as PostgresError
from telegram import Bot
from telegram.error import TelegramError

from flows.bot.announcing import Announcer
from flows.bot.api import make_bot
from flows.bot.commands import Commands
from flows.bot.conditions import Conditions
from flows.bot.config import Config, load_config
from flows.bot.context import Context
from flows.bot.logs import hide
from flows.bot.poller import Poller
from flows.bot.uploads import Receiver
from flows.errors import DatabaseUnavailable, ServiceFailed, TdpError
from flows.ledger.connection import connection
from flows.ledger.locks import BOT
from flows.ledger.schema_version import check_schema
from flows.ledger.session import Session, connect, fetch, fetch_one
from flows.settings import Settings

#: Seconds between two reads of the configuration, two attempts to become the poller, two starts after
#: failures.
_CONFIG_EVERY, _LOCK_EVERY, _PAUSE = 20.0, 1.0, 3.0
_HOW_TO_START = (
    "There is no token: create a bot with @BotFather, and set TDP_BOT_TOKEN or the token of the block"
    " tdp-telegram."
)

log = logging.getLogger("flows.bot")


class Changed(Exception):
    """The token or the server was changed: the bot restarts."""


async def run(settings: Settings) -> None:
    """Run the bot until this is cancelled."""
    is_reported, config = False, None
    while True:
        try:
            config = await asyncio.to_thread(load_config, settings)
            if config is None:
                log.log(logging.DEBUG if is_reported else logging.WARNING, "%s", _HOW_TO_START)
                is_reported = True
                await asyncio.sleep(_CONFIG_EVERY)
                continue
            hide(config.token)
            await _serve(settings, config)
        except (TdpError, PostgresError, psycopg2.OperationalError, TelegramError, OSError) as error:
            reason = config.redact(error) if config else str(error)
            log.warning("The bot restarts in %.0f s: %s", _PAUSE, reason)
        except Changed:
            log.info("The configuration has changed; the bot restarts")
            continue
        except Exception:  # a fault of this program: restart, as after any other failure
            log.exception("The bot restarts in %.0f s after an unexpected error", _PAUSE)
        await asyncio.sleep(_PAUSE)


async def _serve(settings: Settings, config: Config) -> None:
    """Poll, receive and announce until one of the parts fails."""
    async with opened(settings, config) as context:
        commands = Commands(context)
        parts = (
            Poller(context, commands.answer).run(),
            Receiver(context).run(),
            Announcer(context).run(),
            Conditions(context).run(),
            _follow_config(context),
        )
        await _first_failure(parts)


@asynccontextmanager
async def opened(settings: Settings, config: Config) -> AsyncIterator[Context]:
    """Yield the context of the running bot, once this process is the only one that polls it.

    Raises TelegramError if the server does not accept the token, or DatabaseUnavailable.
    """
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(_check_schema, settings)
        session = await stack.enter_async_context(await connect(settings.database, "tdp bot"))
        await _become_poller(session, config.bot_id)
        intake = await stack.enter_async_context(await connect(settings.database, "tdp bot intake"))
        bot = make_bot(config)
        await _log_in(bot, session, config)
        stack.push_async_callback(bot.shutdown)
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=httpx.Timeout(30.0, read=60.0)))
        context = Context(settings, config, bot, bot.username, http, session, intake, log)
        name, host = bot.username, socket.gethostname()
        await context.fetch("bot_started", name=name, host=host, pid=os.getpid())
        log.info("Polling as @%s", name)
        try:
            yield context
        except (asyncio.CancelledError, Changed):
            with suppress(DatabaseUnavailable, PostgresError):
                await context.fetch("bot_stopped")
            raise


def _check_schema(settings: Settings) -> None:
    with connection(settings.database, autocommit=True, connect_timeout=5) as ledger:
        check_schema(ledger)


async def _become_poller(session: Session, bot_id: int) -> None:
    """Acquire the lock of the poller, waiting while another process has it."""
    waits = False
    while not (await fetch_one(session, "lock_bot", space=BOT, bot_id=bot_id))["locked"]:
        if not waits:
            log.info("Another process polls this bot; waiting until it ends")
        waits = True
        await asyncio.sleep(_LOCK_EVERY)


async def _log_in(bot: Bot, session: Session, config: Config) -> None:
    """Ask the server for the bot's name. Raises TelegramError, which `tdp bot status` shows."""
    bot_id = config.bot_id
    await fetch(session, "bot_starting", bot_id=bot_id, host=socket.gethostname(), pid=os.getpid())
    try:
        await bot.initialize()
    except TelegramError as error:
        await fetch(session, "bot_failed", bot_id=bot_id, error=config.redact(error), is_conflict=False)
        raise


async def _follow_config(context: Context) -> None:
    """Apply changes of the configuration. Raises Changed if a change requires a restart."""
    while True:
        await asyncio.sleep(_CONFIG_EVERY)
        try:
            config = await asyncio.to_thread(load_config, context.settings)
        except ServiceFailed:
            continue  # the Prefect server is unavailable
        now = context.config
        if config is None or (config.token, config.api_url) != (now.token, now.api_url):
            raise Changed
        context.config = config


async def _first_failure(parts: tuple[Coroutine[Any, Any, None], ...]) -> None:
    """Run all parts; when one fails, end the others and raise its error."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
