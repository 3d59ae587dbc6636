"""`tdp bot`: run the Telegram bot alone, and show its status."""

from __future__ import annotations

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from flows import reports
from flows.cli import pages
from flows.cli.reports import Json, _ledger, _print_json
from flows.cli.screen import console
from flows.errors import ServiceFailed
from flows.reports import text
from flows.services import current
from flows.settings import Settings

app = typer.Typer()


def has_token(settings: Settings) -> bool:
    """Return whether the bot has a token, in the environment or in its block."""
    from flows.bot.config import load_config

    try:
        return load_config(settings) is not None
    except ServiceFailed:
        return False


@app.callback(invoke_without_command=True)
def bot(context: typer.Context) -> None:
    """Run the Telegram bot until Ctrl-C.

    `tdp up` includes the bot if it has a token. Of several processes one polls, and the others wait until it
    ends. Create a bot with @BotFather, and set TDP_BOT_TOKEN, or the token of the block tdp-telegram, and the
    numeric ids of its users: TDP_BOT_UPLOADERS and TDP_BOT_ADMINS, or the lists of the block.
    """
    if context.invoked_subcommand:
        return
    from flows.bot.process import main  # the library of the Bot API takes half a second

    main(current(Settings()))


@app.command()
def status(as_json: Json = False) -> None:
    """Show the bot's poller, its last successful poll, uploads by state, and waiting announcements."""
    with _ledger() as ledger:
        found = reports.bots(ledger)
    if as_json:
        _print_json(found)
        return
    page = Group(*map(_page, found)) if found else "No bot has polled yet. `tdp bot --help`"
    console(highlight=False).print(page)


def _page(bot: reports.BotStatus) -> RenderableType:
    state = "polls" if bot.is_polling else "stopped" if bot.stopped_at else "does not run"
    table = pages.plain_table(["@" + bot.name, state])
    rows = {
        "Process": f"pid {bot.pid} on {bot.host}, since {pages.when(bot.started_at)}",
        "Last poll": _ago(bot),
        "Another poller": f"last detected {pages.when(bot.conflict_at)}" if bot.conflict_at else "",
        "Error": bot.error or "",
        "Uploads": ", ".join(f"{count} {name}" for name, count in sorted(bot.uploads.items())) or "none",
        "Announcements": f"{text.count(bot.announcements, 'group waits', 'groups wait')} for a final message",
        "Updates skipped": f"{bot.unread_updates} that could not be read" if bot.unread_updates else "",
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, Text(value))
    return table


def _ago(bot: reports.BotStatus) -> str:
    if bot.polled_at is None:
        return "none succeeded yet"
    return f"{text.seconds(bot.silent_sec)} ago, {pages.when(bot.polled_at)}"
