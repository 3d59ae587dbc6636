"""`tdp chat`: one chat."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from flows.cli import pages
from flows.cli.reports import Json, _ledger, _print_json
from flows.cli.screen import console
from flows.cli.signals import stop_on_signals
from flows.cli.stats_command import Senders, statistics_page
from flows.cli.times import Timeout
from flows.reports import text
from flows.tables.chat import Chat, Edit, Missing, chat
from flows.tables.sessions import answer, prepare, timed_out

_TEXT = 300
#: The columns of the table of exports, in lines that fit into 80 columns.
_LEGEND = (
    f"Holds: messages of the chat in the export ({text.NOTHING}: not known).",
    "Whole: whether it leaves none out between its first and its last message.",
    "Current: messages that are stored as this export has them.",
    "Earlier: texts of this export that were edited later, and are kept.",
    "Missing: messages of earlier exports that are missing since this one.",
)


def chat_(
    name: Annotated[str, typer.Argument(help="A chat: its name, a part of it, id or key.")],
    senders: Senders = 10,
    edits: Annotated[int, typer.Option(min=0, help="Maximum number of edited messages.")] = 10,
    missing: Annotated[int, typer.Option(min=0, help="Maximum number of missing messages.")] = 10,
    timeout: Timeout = 300,
    as_json: Json = False,
) -> None:
    """Show one chat: messages per month, senders, the exports that contain it, edits, missing messages.

    An edit is detected if two exports have different texts of a message. A message is missing if a later
    whole export of the chat has messages before and after it, but not the message itself. Times are in UTC.
    """
    with stop_on_signals(), _ledger() as ledger, timed_out(timeout):
        prepare(ledger, timeout)
        found = answer(ledger, lambda: chat(ledger, name, senders=senders, edits=edits, missing=missing))
    if as_json:
        _print_json(found)
    else:
        console(highlight=False).print(_page(found))


def _page(found: Chat) -> RenderableType:
    about = [found.type, found.account and f"exported by {found.account}", f"read from {found.form}"]
    lines = [Text.assemble((found.name or found.chat_key, "bold"), f"  {found.chat_key}")]
    lines.append(Text(", ".join(filter(None, about))))
    if found.aliases:
        lines.append(Text(f"the same as {', '.join(found.aliases)}"))
    return Group(
        *lines, statistics_page(found.statistics), Text(), _exports(found), *_edits(found), *_missing(found)
    )


def _exports(found: Chat) -> RenderableType:
    headers = ("Export", "Batch", "Received", "Holds", "Whole", "Current", "Earlier", "Missing")
    table = pages.plain_table(headers, right=(3, 5, 6, 7))
    for each in found.exports:
        table.add_row(
            Text(each.name or f"source {each.source_id}"),
            each.batch_id or text.NOTHING,
            f"{each.received_at.astimezone(UTC):%Y-%m-%d}" if each.received_at else text.NOTHING,
            text.number(each.held, 0),
            text.NOTHING if each.whole is None else ("yes" if each.whole else "no"),
            f"{each.messages:,}",
            f"{each.versions:,}",
            f"{each.missing:,}",
        )
    title = f"{text.count(len(found.exports), 'export', 'exports')} with messages of this chat:"
    return Group(Text(title), table, *(Text(line, style="dim") for line in _LEGEND))


def _edits(found: Chat) -> Iterator[Text]:
    if not found.edited:
        return
    yield Text()
    yield Text(f"{text.count(found.edited, 'message', 'messages')} with an earlier text:")
    for edit in found.edits:
        yield from _edit(edit)
    if (more := found.edited - len(found.edits)) > 0:
        yield Text(f"and {more:,} more: --edits, or the view edits")


def _edit(edit: Edit) -> Iterator[Text]:
    yield Text.assemble(
        f"{edit.message_id}  ", (edit.sender_name or "", "bold"), f"  edited {pages.sent(edit.edited_at)}"
    )
    for earlier in edit.earlier:
        yield Text(f"  - {text.short(earlier, _TEXT)}", style="red")
    yield Text(f"  + {text.short(edit.text, _TEXT)}", style="green")


def _missing(found: Chat) -> Iterator[Text]:
    if not found.missing:
        return
    yield Text()
    yield Text(f"{text.count(found.missing, 'message', 'messages')} missing in a later export:")
    for one in found.latest_missing:
        yield _missing_line(one)
    if (more := found.missing - len(found.latest_missing)) > 0:
        yield Text(f"and {more:,} more: --missing, or the table missing_messages")


def _missing_line(one: Missing) -> Text:
    since = one.export or f"source {one.missing_since}"
    head = (
        f"{one.message_id}  ",
        (one.sender_name or "", "bold"),
        f"  {pages.sent(one.sent_at)}, since {since}: ",
    )
    return Text.assemble(*head, (text.short(one.text, _TEXT), "red"))
