"""Statistics of the messages: totals, days and hours, senders, kinds of media."""

from __future__ import annotations

from datetime import date, datetime

import msgspec

from flows.ledger.connection import Connection
from flows.ledger.named_sql import load, records
from flows.tables.orders import Choice

_sql = load("statistics.sql")


class Day(msgspec.Struct, frozen=True):
    """Messages of one day (UTC), and of all days until its end."""

    day: date
    messages: int
    growth: int


class Hour(msgspec.Struct, frozen=True):
    """Messages of an hour (UTC) of a day of the week (1: Monday)."""

    weekday: int
    hour: int
    messages: int


class Sender(msgspec.Struct, frozen=True):
    """Messages of one sender; the id is null where only the name is known."""

    name: str | None
    sender_id: str | None
    messages: int


class Media(msgspec.Struct, frozen=True):
    """Messages with a kind of media, and the size of their files as far as the exports have it, or null."""

    kind: str
    messages: int
    size_bytes: int | None


class Statistics(msgspec.Struct, frozen=True):
    """Numbers of the chosen messages; service messages count only as ``service``.

    ``senders`` are the most active of the ``all_senders``. ``undated`` messages have no certain instant: they
    are chosen by the wall clock of their exporter, and in no day and hour. If no message has one, days and
    hours are ``by_wall_clock``.
    """

    messages: int
    service: int
    chats: int
    edited: int
    undated: int
    first_sent_at: datetime | None
    last_sent_at: datetime | None
    by_wall_clock: bool
    days: list[Day]
    hours: list[Hour]
    all_senders: int
    senders: list[Sender]
    media: list[Media]

    @property
    def clock(self) -> str:
        """The clock of days and hours."""
        return "wall clock" if self.by_wall_clock else "UTC"


def statistics(connection: Connection, choice: Choice, *, senders: int = 10) -> Statistics:
    """Return the statistics of the chosen messages, with at most so many senders."""
    chosen = choice._asdict()
    totals = _sql.totals(connection, **chosen)
    by_wall_clock = 0 < totals["undated"] == totals["messages"]
    hours = records(_sql.per_hour(connection, by_wall_clock=by_wall_clock, **chosen), Hour)
    writers = list(_sql.by_sender(connection, most=senders, **chosen))
    return Statistics(
        **totals,
        by_wall_clock=by_wall_clock and bool(hours),
        days=records(_sql.per_day(connection, by_wall_clock=by_wall_clock, **chosen), Day),
        hours=hours,
        all_senders=writers[0]["all_senders"] if writers else 0,
        senders=records(writers, Sender),
        media=records(_sql.by_media(connection, **chosen), Media),
    )


def undated_note(found: Statistics) -> str:
    """Return how many messages have no certain instant and where they are missing; empty if none."""
    if not found.undated:
        return ""
    count = "1 message has" if found.undated == 1 else f"{found.undated:,} messages have"
    if found.by_wall_clock:
        return f"{count} no certain instant: days and hours are wall-clock time of the exporters"
    return f"{count} no certain instant, and no day and hour here"
