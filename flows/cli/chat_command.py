"""`tdp chat`: one chat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from flows.cli import pages
from flows.cli.reports import Json, _installation, _ledger, _print_json
from flows.cli.signals import stop_on_signals
from flows.cli.stats_command import statistics_page
from flows.reports import text
from flows.tables.chat import Chat, Edit, chat
from flows.tables.sessions import prepare, timed_out

_TEXT = 300


def chat_(
    name: Annotated[str, typer.Argument(help="A chat: its name, a part of it, id or key.")],
    edits: Annotated[int, typer.Option(min=0, help="Maximum number of edited messages.")] = 10,
    timeout: Annotated[
        float, typer.Option(min=0.001, metavar="SECONDS", help="End a query that takes longer.")
    ] = 300,
    as_json: Json = False,
) -> None:
    """Show one chat: its messages per month, senders, the exports that brought it, and edits.

    An edit is seen when two exports have different texts of a message.
    """
    with stop_on_signals(), _ledger(_installation()) as ledger, timed_out(timeout):
        prepare(ledger, timeout)
        found = chat(ledger, name, edits=edits)
    if as_json:
        _print_json(found)
    else:
        pages.console(highlight=False).print(_page(found))


def _page(found: Chat) -> RenderableType:
    about = [found.type, found.account and f"exported by {found.account}", f"read from {found.form}"]
    lines = [Text.assemble((found.name or found.chat_key, "bold"), f"  {found.chat_key}")]
    lines.append(Text(", ".join(filter(None, about))))
    if found.aliases:
        lines.append(Text(f"the same as {', '.join(found.aliases)}"))
    return Group(*lines, statistics_page(found.statistics), Text(), _exports(found), *_edits(found))


def _exports(found: Chat) -> RenderableType:
    table = pages.plain_table(("Export", "Received", "Batch", "Messages", "Earlier texts"), right=(3, 4))
    for each in found.exports:
        table.add_row(
            Text(each.name or f"source {each.source_id}"),
            pages.when(each.received_at),
            each.batch_id or text.NOTHING,
            f"{each.messages:,}",
            f"{each.versions:,}",
        )
    return table


def _edits(found: Chat) -> Iterator[Text]:
    if not found.edited:
        return
    yield Text(f"\n{text.count(found.edited, 'message', 'messages')} with an earlier text:")
    for edit in found.edits:
        yield from _edit(edit)
    if (more := found.edited - len(found.edits)) > 0:
        yield Text(f"and {more:,} more: --edits, or the view edits")


def _edit(edit: Edit) -> Iterator[Text]:
    yield Text.assemble(
        f"{edit.message_id}  ", (edit.sender_name or "", "bold"), f"  edited {pages.when(edit.edited_at)}"
    )
    for earlier in edit.earlier:
        yield Text(f"  - {text.short(earlier, _TEXT)}", style="red")
    yield Text(f"  + {text.short(edit.text, _TEXT)}", style="green")
