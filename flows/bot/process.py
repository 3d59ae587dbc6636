"""The process of the bot: its log, its signals, and the modes of the files that it writes."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress

from flows.bot import logs
from flows.bot.service import run
from flows.settings import Settings


def main(settings: Settings) -> None:
    """Run the bot until SIGTERM or Ctrl-C."""
    os.umask(0o077)
    logs.set_up()
    with suppress(asyncio.CancelledError):
        asyncio.run(_until_stopped(settings))


async def _until_stopped(settings: Settings) -> None:
    task = asyncio.ensure_future(run(settings))
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, task.cancel)
    await task
