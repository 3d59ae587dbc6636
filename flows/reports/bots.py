"""Report of the Telegram bot: the process that polls, its last success, and waiting uploads and messages."""

from __future__ import annotations

from datetime import datetime

import msgspec

from flows.ledger.connection import Connection
from flows.ledger.locks import BOT
from flows.ledger.named_sql import load, records

_sql = load("reports.sql")


class BotStatus(msgspec.Struct, frozen=True):
    """One bot. ``silent_sec``: seconds since its last successful getUpdates, or since its start.

    ``uploads`` has numbers by state, ``announcements`` the number of groups whose final message is due,
    ``unread_updates`` that of updates that could not be read and were skipped.
    """

    bot_id: int
    name: str
    host: str
    pid: int
    is_polling: bool
    started_at: datetime
    polled_at: datetime | None
    stopped_at: datetime | None
    conflict_at: datetime | None
    silent_sec: float
    error: str | None
    uploads: dict[str, int]
    announcements: int
    unread_updates: int


def bots(connection: Connection) -> list[BotStatus]:
    """Return all bots that have ever polled for this ledger."""
    return records(_sql.bot_overview(connection, space=BOT), BotStatus)
