"""A picture of statistics: messages per day, hours of the week, senders and kinds of media."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from flows.tables.fonts import Fonts, fonts_for
from flows.tables.packages import package
from flows.tables.statistics import Statistics, undated_note

if TYPE_CHECKING:
    from pathlib import Path

_WEEK = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_BLUE, _ORANGE, _GREY = "#3b6fd4", "#c86b12", "#6b7280"
#: Kinds of media, characters of the title, labels of days, and days up to which bars have gaps.
_KINDS, _TITLE, _DAY_LABELS, _FEW_DAYS = 10, 80, 8, 10
_LEFT_OUT = "Characters that no font of this machine has are left out"


def draw(found: Statistics, path: Path, chats: Sequence[tuple[str, str | None]]) -> str:
    """Draw the statistics of ``chats`` (key and name; none: all); the suffix names the format.

    Returns the characters of names that no font of this machine has. Raises PackageMissing without
    matplotlib, ValueError for a format that it does not know.
    """
    package("matplotlib")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = [name or "" for _, name in chats] + [each.name or "" for each in found.senders]
    fonts = fonts_for([*names, *(each.kind for each in found.media)])
    with mpl.rc_context({"font.family": fonts.families}):
        figure = Figure(figsize=(12, 7), layout="constrained")
        (days, week), (senders, media) = figure.subplots(2, 2)
        title = ", ".join(fonts.label(name, key, _TITLE) for key, name in chats) or "All chats"
        figure.suptitle(fonts.label(title, title, _TITLE), fontweight="bold", parse_math=False)
        _draw_days(days, found)
        _draw_week(week, figure, found)
        _draw_senders(senders, found, fonts)
        _draw_media(media, found, fonts)
        notes = filter(None, [undated_note(found), _LEFT_OUT if fonts.missing else ""])
        figure.supxlabel(". ".join(notes), fontsize="small")
        figure.savefig(path, dpi=110)
    return "".join(sorted(fonts.missing))


def _draw_days(axes: Any, found: Statistics) -> None:
    axes.set(title="Messages per day, and their growth")
    if not found.days:
        _say(axes, "No message has a certain day" if found.messages else "No messages")
        return
    days = [each.day for each in found.days]
    span = (days[-1] - days[0]).days
    is_few = span < _FEW_DAYS
    axes.bar(days, [each.messages for each in found.days], width=0.8 if is_few else 1.0, color=_BLUE)
    axes.set(ylabel="messages a day")
    growth = axes.twinx()
    growth.plot(days, [each.growth for each in found.days], color=_ORANGE, marker="o" if is_few else "")
    growth.set(ylabel="all messages", ylim=(0, None))
    # Matplotlib would divide a few days into hours, and let a single day fill the panel.
    step = span // _DAY_LABELS + 1
    ticks = [days[0] + timedelta(days=number) for number in range(0, span + 1, step)]
    axes.set_xticks(ticks, [f"{day:%Y-%m-%d}" for day in ticks], rotation=25, ha="right")
    if is_few:
        around = timedelta(days=max(1, (5 - span) // 2))
        axes.set_xlim(days[0] - around, days[-1] + around)
    for each in (axes, growth):
        each.yaxis.get_major_locator().set_params(integer=True)


def _draw_week(axes: Any, figure: Any, found: Statistics) -> None:
    axes.set(title=f"Hours of the week ({found.clock})")
    if not found.hours:
        _say(axes, "No message has a certain hour" if found.messages else "No messages")
        return
    grid = [[0] * 24 for _ in _WEEK]
    for each in found.hours:
        grid[each.weekday - 1][each.hour] = each.messages
    image = axes.imshow(grid, aspect="auto", cmap="Blues", vmin=0)
    axes.set(xticks=range(0, 24, 3))
    axes.set_yticks(range(7), _WEEK)
    bar = figure.colorbar(image, ax=axes, label="messages")
    bar.ax.yaxis.get_major_locator().set_params(integer=True)


def _draw_senders(axes: Any, found: Statistics, fonts: Fonts) -> None:
    bars = [(fonts.label(each.name, each.sender_id or "?"), each.messages) for each in found.senders]
    _draw_bars(axes, _some("Senders", len(bars), found.all_senders), bars, "No messages")


def _draw_media(axes: Any, found: Statistics, fonts: Fonts) -> None:
    bars = [(fonts.label(each.kind, "?"), each.messages) for each in found.media[:_KINDS]]
    _draw_bars(axes, _some("Media", len(bars), len(found.media)), bars, "No media")


def _some(what: str, shown: int, of: int) -> str:
    return what if shown >= of else f"{what} ({shown:,} of {of:,})"


def _draw_bars(axes: Any, title: str, bars: list[tuple[str, int]], otherwise: str) -> None:
    axes.set(title=title)
    if not bars:
        _say(axes, otherwise)
        return
    axes.barh(range(len(bars)), [count for _, count in bars], color=_BLUE)
    # A name with dollar signs is not a formula, and two people may have the same name.
    axes.set_yticks(range(len(bars)), [name for name, _ in bars], parse_math=False)
    axes.set(xlabel="messages", ylim=(max(len(bars), 6) - 0.5, -0.5))
    axes.xaxis.get_major_locator().set_params(integer=True)


def _say(axes: Any, text: str) -> None:
    """Write a text into an empty panel."""
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, text, ha="center", va="center", color=_GREY, transform=axes.transAxes)
