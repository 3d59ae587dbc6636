"""Statistics of the messages: totals, days and hours, senders, kinds of media; as numbers and a picture."""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from flows.ledger.connection import Connection
from flows.ledger.named_sql import load, records
from flows.tables.orders import Choice
from flows.tables.packages import package

if TYPE_CHECKING:
    from pathlib import Path

_sql = load("statistics.sql")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_BLUE = "#3b6fd4"


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


def draw(found: Statistics, path: Path, title: str) -> None:
    """Draw messages per day, hours of the week, senders and media; the suffix names the format.

    Raises PackageMissing without matplotlib, ValueError for a format that it does not know.
    """
    package("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    (days, week), (senders, media) = figure.subplots(2, 2)
    figure.suptitle(title, fontweight="bold", parse_math=False)
    _draw_days(days, found.days)
    _draw_week(week, figure, found)
    _draw_bars(
        senders, "Senders", [(each.name or each.sender_id or "", each.messages) for each in found.senders]
    )
    _draw_bars(media, "Media", [(each.kind, each.messages) for each in found.media[:10]])
    figure.supxlabel(undated_note(found), fontsize="small")
    figure.savefig(path, dpi=110)


def _draw_days(axes: Any, days: list[Day]) -> None:
    axes.bar([each.day for each in days], [each.messages for each in days], width=1.0, color=_BLUE)
    axes.set(title="Messages per day, and their growth", ylabel="messages a day")
    growth = axes.twinx()
    growth.plot([each.day for each in days], [each.growth for each in days], color="#c86b12")
    growth.set(ylabel="all messages", ylim=(0, None))
    axes.tick_params(axis="x", rotation=25)


def _draw_week(axes: Any, figure: Any, found: Statistics) -> None:
    grid = [[0] * 24 for _ in _DAYS]
    for each in found.hours:
        grid[each.weekday - 1][each.hour] = each.messages
    image = axes.imshow(grid, aspect="auto", cmap="Blues")
    axes.set(title=f"Hours of the week ({found.clock})", xticks=range(0, 24, 3))
    axes.set_yticks(range(7), _DAYS)
    figure.colorbar(image, ax=axes, label="messages")


def _draw_bars(axes: Any, title: str, bars: list[tuple[str, int]]) -> None:
    # A name with dollar signs is no formula, and two people may have the same name.
    names = [name[:28] for name, _ in bars]
    axes.barh(range(len(bars)), [count for _, count in bars], color=_BLUE)
    axes.set_yticks(range(len(bars)), names, parse_math=False)
    axes.set(title=title, xlabel="messages", ylim=(max(len(bars), 6) - 0.5, -0.5))
