"""Conditions of the monitor, sent to the bot's admins: also while Prefect is down."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from psycopg.types.json import Jsonb
from telegram.error import TelegramError

from flows.bot.context import Context
from flows.services.background import monitor_url

#: Seconds between two checks. A condition is sent after two checks have found it.
_LOOK_EVERY = 15.0
#: Seconds within which the monitor answers.
_WITHIN = 10.0


class Conditions:
    """Notifies admins of conditions that begin or end."""

    def __init__(self, context: Context) -> None:
        """Notify the admins of ``context.config``."""
        self._context = context
        self._seen: dict[str, str] = {}

    async def run(self) -> None:
        """Check until this is cancelled. Raises DatabaseUnavailable."""
        while True:
            if self._context.config.admins:
                await self.look()
            await asyncio.sleep(_LOOK_EVERY)

    async def look(self) -> None:
        """Compare the current conditions with those that were sent."""
        rows = await self._context.fetch("bot_raised")
        sent: dict[str, str] = rows[0]["raised"] if rows else {}
        health = await read_health(self._context)
        found = raised(health)
        if health is None:  # conditions that were sent may still last
            found = sent | found
        new = {name: detail for name, detail in found.items() if name in self._seen and name not in sent}
        over = {name: detail for name, detail in sent.items() if name not in found}
        self._seen = found
        if not new and not over:
            return
        # Recorded before they are sent: losing a message is better than repeating it every 15 seconds.
        kept = {name: detail for name, detail in sent.items() if name in found} | new
        await self._context.fetch("set_bot_raised", raised=Jsonb(kept))
        lines = [f"🔔 {name}: {detail}" for name, detail in new.items()]
        lines += [f"🔕 {name}: over" for name in over]
        await send_to_admins(self._context, "\n".join(lines))


async def send_to_admins(context: Context, message: str) -> None:
    """Send a message to each admin who has started the bot."""
    for admin in sorted(context.config.admins):
        try:
            await context.send(admin, message)
        except TelegramError as error:
            context.log.warning("An admin cannot be written to: %s", context.config.redact(error))


async def read_health(context: Context) -> dict[str, Any] | None:
    """Return the response of the monitor at /health; None if it does not respond."""
    settings = context.settings
    headers = {"Authorization": settings.authorization} if settings.authorization else {}
    try:
        answer = await context.http.get(f"{monitor_url(settings)}/health", headers=headers, timeout=_WITHIN)
        health: dict[str, Any] = answer.json()
    except (httpx.HTTPError, ValueError):
        return None
    return health


def raised(health: dict[str, Any] | None) -> dict[str, str]:
    """Return the conditions that fire, with their details, by their names in the monitor's log."""
    if health is None:
        return {"monitor_down": "the monitor does not respond"}
    conditions = health.get("conditions", {})
    found = {name: entry["detail"] for name, entry in conditions.items() if entry["firing"]}
    components = health.get("components", {})
    down = {f"{name}_down": entry["detail"] for name, entry in components.items() if not entry["ok"]}
    down.pop("stages_down", None)  # its causes are conditions with their own names
    return found | down
