"""One chat: its numbers, the exports that contain it, its edits, and missing messages."""

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
    """A source file with the chat; null: not in the ledger.

    ``messages`` and ``versions``: the messages whose current version is from it, and earlier texts. ``held``:
    all messages that it has (null: not known), ``whole``: no message was left out between the first and the
    last one. ``missing``: the messages that are missing since this export.
    """

    source_id: int
    name: str | None
    received_at: datetime | None
    batch_id: str | None
    messages: int
    versions: int
    held: int | None
    whole: bool | None
    missing: int


class Edit(msgspec.Struct, frozen=True):
    """A message whose text was edited: its text now, and earlier ones of other exports, in their order."""

    message_id: int
    sent_at: datetime | None
    sender_name: str | None
    edited_at: datetime | None
    text: str
    earlier: list[str]


class Missing(msgspec.Struct, frozen=True):
    """A message that is missing: ``missing_since`` is the id of the first source file without it."""

    message_id: int
    sent_at: datetime | None
    sender_name: str | None
    text: str
    missing_since: int
    export: str | None


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
    missing: int
    latest_missing: list[Missing]


def chat(
    connection: Connection, given: str, *, senders: int = 10, edits: int = 10, missing: int = 10
) -> Chat:
    """Return the chat with this key, id or name, with at most so many senders, edits and missing messages.

    The senders are those of the most messages, edits and missing messages the latest.

    Raises ChatUnknown.
    """
    key = chat_key(connection, given)
    return Chat(
        **_sql.chat_head(connection, chat_key=key),
        statistics=statistics(connection, Choice([key]), senders=senders),
        exports=records(_sql.chat_exports(connection, chat_key=key), Export),
        edited=_sql.chat_edit_count(connection, chat_key=key),
        edits=records(_sql.chat_edits(connection, chat_key=key, most=edits), Edit),
        missing=_sql.chat_missing_count(connection, chat_key=key),
        latest_missing=records(_sql.chat_missing(connection, chat_key=key, most=missing), Missing),
    )
