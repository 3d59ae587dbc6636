"""`tdp stats`: numbers of the messages, and a picture of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from flows.cli import pages
from flows.cli.export_command import Chats
from flows.cli.reports import Json, _ledger, _print_json
from flows.cli.screen import console
from flows.cli.signals import stop_on_signals
from flows.cli.times import SinceUtc, Timeout, UntilUtc
from flows.reports import text
from flows.tables.choosing import chat_keys, chat_names
from flows.tables.orders import Choice
from flows.tables.packages import package
from flows.tables.sessions import answer, prepare, timed_out
from flows.tables.statistics import Media, Statistics, statistics, undated_note

#: Characters of a bar, and of those that a picture leaves out.
_BAR, _MISSING = 40, 20
_ZONE = (
    "HTML exports name only wall-clock time. If they were made in one time zone, enter it in the block `tdp`"
    " (*Time zone of HTML exports*; for a new installation TDP_HTML_ZONE), and run"
    " `tdp backfill --status completed --from convert`."
)
Senders = Annotated[int, typer.Option(min=1, help="Maximum number of senders, the most active first.")]


def stats(
    chat: Chats = None,
    since: SinceUtc = None,
    until: UntilUtc = None,
    senders: Senders = 10,
    picture: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Also draw them: a .png, .svg or .pdf file to write.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing picture.")] = False,
    timeout: Timeout = 300,
    as_json: Json = False,
) -> None:
    """Show numbers of the messages: per month and hour, senders, kinds of media. Times are in UTC.

    Messages without a certain instant (HTML names only wall-clock time) are in no month and hour; --since and
    --until choose them by the wall clock. If no message has one, months and hours are in wall-clock time.
    """
    if picture:
        _check(picture, force=force)
    with stop_on_signals(), _ledger() as ledger, timed_out(timeout):
        prepare(ledger, timeout)

        def ask() -> tuple[Statistics, list[tuple[str, str | None]]]:
            keys = chat_keys(ledger, chat or [])
            found = statistics(ledger, Choice(keys, since, until), senders=senders)
            return found, chat_names(ledger, keys or [])

        found, chats = answer(ledger, ask)
    if picture:
        _draw(found, picture, chats, force=force)
    if as_json:
        _print_json(found)
    else:
        console(highlight=False).print(statistics_page(found))


def _check(picture: Path, *, force: bool) -> None:
    """Raise the error that would prevent the picture, before the numbers are queried."""
    from flows.tables.export import place_of

    if picture.suffix not in (".png", ".svg", ".pdf"):
        raise typer.BadParameter(f"{picture}: a picture is a .png, .svg or .pdf file")
    package("matplotlib")
    place_of(picture, force=force)


def _draw(found: Statistics, picture: Path, chats: list[tuple[str, str | None]], *, force: bool) -> None:
    from flows.tables.drawing import draw
    from flows.tables.export import complete

    with complete(picture, force=force) as partial:
        missing = draw(found, partial, chats)
    notes = console(stderr=True, highlight=False)
    notes.print(Text(f"{picture}: {text.size(picture.stat().st_size)}"))
    if missing:
        more = "…" if len(missing) > _MISSING else ""
        notes.print(
            Text(
                f"It leaves out characters that no font of this machine has: {missing[:_MISSING]}{more}"
                " Install a font that has them, for example Noto Sans CJK (fonts-noto-cjk)."
            )
        )


def statistics_page(found: Statistics) -> RenderableType:
    """Return the totals, and tables with bars."""
    if not found.messages + found.service:
        return Group(Text("No messages."), *_undated(found))
    chats = text.count(found.chats, "chat", "chats")
    head = (
        f"{text.count(found.messages, 'message', 'messages')} in {chats}, {found.edited:,} edited;"
        f" {text.count(found.service, 'service message', 'service messages')}"
    )
    months: dict[str, int] = {}
    hours = dict.fromkeys(range(24), 0)
    for day in found.days:
        months[f"{day.day:%Y-%m}"] = months.get(f"{day.day:%Y-%m}", 0) + day.messages
    for hour in found.hours:
        hours[hour.hour] += hour.messages
    senders = [(each.name or each.sender_id or "", each.messages) for each in found.senders]
    more = found.all_senders - len(senders)
    return Group(
        Text(head),
        *(
            [Text(f"from {pages.sent(found.first_sent_at)} to {pages.sent(found.last_sent_at)}")]
            if found.first_sent_at
            else []
        ),
        *_undated(found),
        *_bars(f"Month ({found.clock})", list(months.items())),
        *_bars(
            f"Hour ({found.clock})", [(f"{hour:02d}", count) for hour, count in hours.items() if found.hours]
        ),
        *_bars("Sender", senders),
        *([Text(f"and {more:,} more: --senders {found.all_senders}")] if more > 0 else []),
        *_bars("Media", [(_kind(each), each.messages) for each in found.media]),
    )


def _undated(found: Statistics) -> list[Text]:
    """Return how many messages have no certain instant, and which setting makes it certain."""
    return [Text(f"{note}."), Text(_ZONE)] if (note := undated_note(found)) else []


def _kind(media: Media) -> str:
    """Return the kind with the size, unless that is unknown."""
    return f"{media.kind} ({text.size(media.size_bytes)})" if media.size_bytes else media.kind


def _bars(title: str, counts: list[tuple[str, int]]) -> list[RenderableType]:
    """Return a table of counts with a bar for each; several may have the same name."""
    table = pages.plain_table((title, "Messages", ""), right=(1,))
    most = max((count for _, count in counts), default=0) or 1
    for name, count in counts:
        table.add_row(Text(name), f"{count:,}", Text("█" * round(_BAR * count / most), style="blue"))
    return [Text(), table] if counts else []
