"""`tdp search`: messages by their words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperCommand

from flows.cli import pages
from flows.cli.export_command import Chats
from flows.cli.reports import Json, _ledger, _print_json
from flows.cli.screen import Screen
from flows.cli.signals import stop_on_signals
from flows.cli.times import SinceUtc, Timeout, UntilUtc
from flows.ledger.connection import connection
from flows.ledger.schema_version import check_schema
from flows.reports import text
from flows.services import current
from flows.settings import Settings
from flows.tables.choosing import chat_keys
from flows.tables.orders import Choice
from flows.tables.search import Found, Hit, missing_extensions, search
from flows.tables.search_index import Indexed, index, rebuild
from flows.tables.sessions import answer, prepare, timed_out

_Words = Annotated[
    list[str] | None,
    typer.Argument(
        help="Words that a message must have; quote the whole for: '\"a phrase\" or other -without'."
    ),
]
_Sender = Annotated[
    str | None,
    typer.Option("--from", metavar="SENDER", help="Only of this sender: an id, or a part of a name."),
]
_Substring = Annotated[
    bool, typer.Option("--substring", help="Find the text also inside of words; newest first.")
]
_IndexNow = Annotated[
    bool,
    typer.Option("--index", help="First index the messages stored since maintenance last ran."),
]
_Rebuild = Annotated[
    bool,
    typer.Option(
        "--rebuild",
        help="First index all messages again, with the PostgreSQL extensions that are available now.",
    ),
]


class WordsMayHaveMinus(TyperCommand):
    """A command whose error explains how to exclude a word, which looks like an option: ``-dog``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as every command does; the error of an unknown short option has the hint."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            option = getattr(error, "option_name", None)  # of click's error, which typer does not export
            if not option or option.startswith("--"):
                raise
            word = next((each for each in given if each.startswith(option)), option)
            raise typer.BadParameter(
                f"no such option: {word}. Words with a minus come after --: `tdp search fox -- {word}`,"
                f" or in quotes with others: `tdp search 'fox {word}'`"
            ) from error


def search_(
    words: _Words = None,
    chat: Chats = None,
    sender: _Sender = None,
    since: SinceUtc = None,
    until: UntilUtc = None,
    substring: _Substring = False,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of messages.")] = 20,
    timeout: Timeout = 60,
    index_now: _IndexNow = False,
    from_scratch: _Rebuild = False,
    as_json: Json = False,
) -> None:
    """Search the messages, best matches first; case and accents do not matter.

    Maintenance indexes new messages; messages that are not indexed yet are found as well, but more slowly.
    Chinese, Japanese, Thai and other scripts without spaces are found by any part of their texts. Times are
    in UTC.
    """
    given = " ".join(words or []).strip()
    _check(bool(given or index_now or from_scratch), sender)
    settings = current(Settings())
    with stop_on_signals():
        if index_now or from_scratch:
            _index(settings, from_scratch=from_scratch)
        if not given:
            return
        with _ledger(settings) as ledger, timed_out(timeout):
            prepare(ledger, timeout)

            def ask() -> Found:
                choice = Choice(chat_keys(ledger, chat or []), since, until)
                return search(ledger, given, choice, sender=sender, substring=substring, limit=limit)

            found = answer(ledger, ask)
    if as_json:
        _print_json(found)
    else:
        _print(found)


def _check(is_something_to_do: bool, sender: str | None) -> None:
    """Raise BadParameter for a search for nothing, or from any sender."""
    if not is_something_to_do:
        raise typer.BadParameter("name the words to search for")
    if sender is not None and not sender.strip():
        raise typer.BadParameter("--from is empty, and would fit every sender with a name")


def _index(settings: Settings, *, from_scratch: bool) -> None:
    progress = Screen(stderr=True, highlight=False)

    def report(done: Indexed) -> None:
        progress.print(f"{done.written:,} messages of {text.count(done.sources, 'file', 'files')} indexed")

    with connection(settings.database, application_name="tdp search") as ledger:
        check_schema(ledger)
        if from_scratch:
            answer(ledger, lambda: rebuild(ledger))
        done = answer(ledger, lambda: index(ledger, report))
        if done.is_elsewhere:
            progress.print(
                "Another session is indexing, and continues with the rest. Until it has ended, searches"
                " compare the other messages one by one."
            )
        elif not done.sources:
            progress.print("Nothing to index: every message is indexed.")
        _print_missing(missing_extensions(ledger), progress)


def _print(found: Found) -> None:
    console = Screen(soft_wrap=True, highlight=False)
    for hit in found.hits:
        for line in _lines(hit):
            console.print(line)
    if not found.hits:
        console.print("No messages match.")
    notes = Screen(stderr=True, soft_wrap=True, highlight=False)
    if found.latest:
        notes.print(
            f"More messages match: these are the best of the latest {found.latest:,}."
            " --until, --since, --chat and --from choose others; --limit ranks more.",
            style="dim",
        )
    if found.pending_sources:
        files = text.count(found.pending_sources, "file", "files")
        notes.print(
            f"The messages of {files} that are not indexed yet were compared one by one."
            " --index makes the next search faster.",
            style="dim",
        )
    _print_missing(found.missing_extensions, notes)


def _print_missing(extensions: list[str], notes: Screen) -> None:
    if extensions:
        notes.print(
            f"PostgreSQL has no extension {' and '.join(extensions)}: words with and"
            " without accents differ (unaccent), --substring reads every message (pg_trgm). After they are"
            " installed, run --rebuild.",
            style="dim",
        )


def _lines(hit: Hit) -> Iterator[Text]:
    moment = pages.sent(hit.sent_at) if hit.sent_at else f"{hit.sent_local or text.NOTHING} (wall clock)"
    where = f"{hit.chat_name or hit.chat_key} {hit.link or f'{hit.chat_key} {hit.message_id}'}"
    yield Text.assemble((moment, "dim"), "  ", (hit.sender_name or hit.sender_id or "", "bold"), "  ", where)
    snippet = Text(f"    {hit.snippet}")
    for first, end in hit.marks:
        snippet.stylize("bold yellow", first + 4, end + 4)
    yield snippet
