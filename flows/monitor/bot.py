"""Conditions and metrics of the Telegram bot, from what it records in the ledger."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from prometheus_client.core import GaugeMetricFamily, Metric

from flows.ledger.connection import Connection
from flows.ledger.named_sql import load, records
from flows.reports import text

_sql = load("monitor.sql")
#: Seconds without a successful getUpdates after which the bot counts as silent; one takes at most 25 s.
SILENT = 180.0
STATES = ("SEEN", "WAITING_SPACE", "RECEIVED", "REFUSED", "FAILED")


class Poller(msgspec.Struct, frozen=True):
    """One bot that should poll; ``silent_sec``: seconds since its last successful getUpdates."""

    name: str
    error: str | None
    silent_sec: float
    is_conflict: bool


class Uploads(msgspec.Struct, frozen=True):
    """Numbers of uploads and messages that have waited long, and of updates that could not be read."""

    stuck: int = 0
    reason: str | None = None
    unsent: int = 0
    unread: int = 0


class BotHealth(msgspec.Struct, frozen=True):
    """The facts on which the conditions of the bot depend."""

    pollers: list[Poller] = []
    uploads: Uploads = Uploads()

    def silent(self) -> list[str]:
        """Describe each bot that has not polled for too long."""
        return [
            f"@{bot.name} has not polled for {text.seconds(bot.silent_sec)}"
            + (f": {bot.error}" if bot.error else "")
            for bot in self.pollers
            if bot.silent_sec > SILENT
        ]

    def conflicts(self) -> list[str]:
        """Describe each bot that another process polls, too."""
        return [f"another process polls @{bot.name}" for bot in self.pollers if bot.is_conflict]

    def stuck(self) -> list[str]:
        """Describe the uploads and messages that wait for too long, and the updates that could not be
        read."""
        found = self.uploads
        parts = [
            (found.stuck, f"{text.count(found.stuck, 'upload', 'uploads')} not received: {found.reason}"),
            (found.unsent, f"{text.count(found.unsent, 'message', 'messages')} could not be sent"),
            (
                found.unread,
                f"{text.count(found.unread, 'update', 'updates')} of the last day could not be read",
            ),
        ]
        return [description for number, description in parts if number]


def read_bot(ledger: Connection) -> BotHealth:
    """Return the facts that the bot has recorded."""
    uploads = msgspec.convert(dict(_sql.upload_health(ledger)), Uploads)
    return BotHealth(records(_sql.bot_health(ledger), Poller), uploads)


def bot_metrics(ledger: Connection) -> Iterator[Metric]:
    """Yield the bot's metrics; its age is missing while there is no bot."""
    ages = GaugeMetricFamily(
        "tdp_bot_poll_age_seconds", "Time since the bot's last successful poll.", labels=["bot"]
    )
    for bot in records(_sql.bot_health(ledger), Poller):
        ages.add_metric([bot.name], bot.silent_sec)
    yield ages
    uploads = GaugeMetricFamily("tdp_uploads", "Documents sent to the bot, by state.", labels=["state"])
    counts = {row["state"]: row["uploads"] for row in _sql.upload_counts(ledger)}
    for state in STATES:
        uploads.add_metric([state.lower()], counts.get(state, 0))
    yield uploads
    waiting = _sql.announcements_waiting(ledger)
    yield GaugeMetricFamily(
        "tdp_announcements_waiting", "Groups of uploads whose final message is due.", value=waiting
    )
