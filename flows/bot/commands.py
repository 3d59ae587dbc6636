"""Commands: /help, /status and /batches for all users on the list, the others for admins.

In a group, /status and /batches report only the files that were sent there, because others read the answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import psycopg2
from psycopg import Error as PostgresError
from psycopg.rows import DictRow

from flows import reports
from flows.bot import texts
from flows.bot.conditions import raised, read_health
from flows.bot.context import Context
from flows.bot.texts import File
from flows.bot.updates import Command, Sender
from flows.domain import BACKFILL, full_batch_id
from flows.errors import BatchUnknown, TdpError
from flows.ledger.connection import Connection, connection
from flows.ledger.named_sql import load
from flows.reports import text
from flows.reports.picture import as_png, is_tall
from flows.reports.prefect_api import request
from flows.reports.timeline import timeline_svg

#: Lines of a list.
_LINES = 15
T = TypeVar("T")
_sql = load("reports.sql")


class Commands:
    """Answers commands; one that is not known, or is not for this user, gets the help."""

    def __init__(self, context: Context) -> None:
        """Answer as ``context.bot``."""
        self._context = context
        self._known: dict[str, Callable[[Command], Awaitable[str | None]]] = {
            "start": self._help,
            "help": self._help,
            "status": self._status,
            "batches": self._batches,
        }
        self._for_admins: dict[str, Callable[[Command], Awaitable[str | None]]] = {
            "retry": self._retry,
            "timeline": self._timeline,
            "health": self._health,
        }

    async def answer(self, command: Command) -> None:
        """Send the answer to a command. Raises TelegramError."""
        sender = command.sender
        known = self._known | (self._for_admins if sender.is_admin else {})
        answering = known.get(command.name, self._help)
        if command.name not in known and not sender.is_private and not command.is_addressed:
            return  # it is probably for another bot of the group
        try:
            answer = await answering(command)
        except (psycopg2.Error, PostgresError, TdpError) as error:
            self._context.log.warning("/%s failed: %s", command.name, self._context.config.redact(error))
            reason = text.short(self._context.config.redact(error), 300)
            answer = f"This is not possible at the moment: {reason if sender.is_admin else 'try it later'}"
        if answer:
            await self._context.send(sender.chat_id, answer, sender.message_id)

    async def _help(self, command: Command) -> str:
        return texts.help_text(self._context.config.max_bytes, command.sender.is_admin)

    async def _of(self, sender: Sender, statement: str, **values: object) -> list[DictRow]:
        """Run a statement about the uploads of a user; in a group about those of the group."""
        chat_id = None if sender.is_private else sender.chat_id
        return await self._context.fetch(statement, user_id=sender.user_id, chat_id=chat_id, **values)

    async def _status(self, command: Command) -> str:
        rows = await self._of(command.sender, "open_uploads_of_user")
        files = [msgspec.convert(row, File, strict=False) for row in rows]
        lines = [texts.status_text(files)] if files else ["None of your files is being processed."]
        (row,) = await self._of(command.sender, "count_ended_of_user")
        if ended := row["ended"]:
            lines.append(f"Done in the last 30 days: {text.count(ended, 'file', 'files')}, see /batches")
        if command.sender.is_admin and command.sender.is_private:
            lines += await self._query(_lanes)
        return "\n".join(lines)

    async def _batches(self, command: Command) -> str:
        if command.sender.is_admin and command.sender.is_private:
            return "\n".join(await self._query(_newest_batches)) or "No batches."
        lines = [
            f"{row['batch_id']}: {'held by an operator' if row['held'] else row['status']}"
            f", {text.count(row['files'], 'file', 'files')} of yours"
            for row in await self._of(command.sender, "batches_of_user", limit=_LINES)
        ]
        return "\n".join(lines) or "None of your files is in a batch."

    async def _retry(self, command: Command) -> str:
        try:
            batch_id = full_batch_id(command.argument)
        except ValueError:
            return "Name a batch, for example: /retry batch_000042"
        try:
            batch = await self._query(lambda ledger: reports.batch(ledger, batch_id))
        except BatchUnknown:
            return f"There is no batch {batch_id}."
        if batch.status not in ("FAILED", "COMPLETED") and not batch.held_at:
            return f"{batch_id} is {batch.status}: it is being processed, or will be."
        stage = batch.resumes_at or "extract"
        await asyncio.to_thread(self._request_backfill, batch_id, stage, command.sender)
        return f"A backfill of {batch_id} from {stage} on was requested; the outcome comes by itself."

    def _request_backfill(self, batch_id: str, stage: str, sender: Sender) -> None:
        """Create a run of the deployment backfill/adhoc. Raises ServiceFailed."""
        settings = self._context.settings
        found = msgspec.json.decode(request(settings, "GET", f"/api/deployments/name/{BACKFILL}/adhoc"))
        body = {
            "parameters": {"batch_ids": [batch_id], "from_stage": stage},
            "state": {"type": "SCHEDULED"},
            "tags": ["telegram"],
            # A command that Telegram delivers twice creates one run.
            "idempotency_key": f"telegram-{self._context.config.bot_id}-{sender.chat_id}-{sender.message_id}",
        }
        path = f"/api/deployments/{found['id']}/create_flow_run"
        request(settings, "POST", path, msgspec.json.encode(body), timeout=10.0)

    async def _timeline(self, command: Command) -> str | None:
        def draw(ledger: Connection) -> str | None:
            run = _sql.last_listed_run(ledger)
            return timeline_svg(ledger, flow_run_id=run) if run else None

        timeline = await self._query(draw)
        if timeline is None:
            return "No run has processed batches."
        picture = await asyncio.to_thread(as_png, timeline)
        bot, chat_id, caption = self._context.bot, command.sender.chat_id, "The lanes of the last run"
        await self._context.chats.send(
            chat_id,
            lambda: (
                bot.send_document(chat_id, picture, caption=caption, filename="timeline.png")
                if is_tall(picture)
                else bot.send_photo(chat_id, picture, caption=caption, filename="timeline.png")
            ),
        )
        return None

    async def _health(self, _: Command) -> str:
        health = await read_health(self._context)
        if health is None:
            return "The monitor does not respond."
        components: dict[str, Any] = health.get("components", {})
        lines = [
            f"{'✅' if entry['ok'] else '❌'} {name}: {entry['detail']}" for name, entry in components.items()
        ]
        lines += [
            f"🔔 {name}: {detail}" for name, detail in raised(health).items() if not name.endswith("_down")
        ]
        return "\n".join([f"{health['status'].capitalize()}.", *lines])

    async def _query(self, report: Callable[[Connection], T]) -> T:
        def run() -> T:
            url = self._context.settings.database
            with connection(url, readonly=True, autocommit=True, connect_timeout=5) as ledger:
                return report(ledger)

        return await asyncio.to_thread(run)


def _lanes(ledger: Connection) -> list[str]:
    now = reports.status(ledger)
    lines = [
        f"{lane.stage}: {', '.join(run.batch_id for run in lane.holders) or 'free'}"
        f"; {len(lane.queue)} waiting"
        for lane in now.lanes
    ]
    counts = [f"{count} {status.lower()}" for status, count in sorted(now.batches.items())]
    return [*lines, f"Batches: {', '.join(counts) or 'none'}; {now.held} held."]


def _newest_batches(ledger: Connection) -> list[str]:
    return [
        f"{batch.batch_id}: {'held, ' if batch.held_at else ''}{batch.status.lower()}, "
        f"{text.count(batch.file_count, 'file', 'files')}"
        f", {text.count(batch.messages, 'message', 'messages')}"
        + (f", {texts.without_hidden(text.short(batch.error_message, 100))}" if batch.error_message else "")
        for batch in reports.batches(ledger, limit=_LINES)
    ]
