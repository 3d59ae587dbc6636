"""One chat: its numbers, the exports that brought it, and its edits."""

from __future__ import annotations

from datetime import datetime

import msgspec

from flows.ledger.connection import Connection
from flows.ledger.named_sql import load, records
from flows.tables.choosing import chat_key
from flows.tables.orders import Choice
from flows.tables.statistics import Statistics, statistics

_sql = load("chat.sql")


class Export(msgspec.Struct, frozen=True):
    """A source file that brought messages as they are now, or earlier texts; null: not in the ledger."""

    source_id: int
    name: str | None
    received_at: datetime | None
    batch_id: str | None
    messages: int
    versions: int


class Edit(msgspec.Struct, frozen=True):
    """A message whose text was edited: its text now, and earlier ones of other exports, in their order."""

    message_id: int
    sent_at: datetime | None
    sender_name: str | None
    edited_at: datetime | None
    text: str
    earlier: list[str]


class Chat(msgspec.Struct, frozen=True):
    """One chat; ``aliases`` are keys of chats that were found to be the same."""

    chat_key: str
    chat_id: int | None
    name: str | None
    type: str | None
    account: str | None
    form: str
    aliases: list[str]
    statistics: Statistics
    exports: list[Export]
    edited: int
    edits: list[Edit]


def chat(connection: Connection, given: str, *, edits: int = 10) -> Chat:
    """Return the chat with this key, id or name, and its latest ``edits``. Raises ChatUnknown."""
    key = chat_key(connection, given)
    return Chat(
        **_sql.chat_head(connection, chat_key=key),
        statistics=statistics(connection, Choice([key])),
        exports=records(_sql.chat_exports(connection, chat_key=key), Export),
        edited=_sql.chat_edit_count(connection, chat_key=key),
        edits=records(_sql.chat_edits(connection, chat_key=key, most=edits), Edit),
    )
