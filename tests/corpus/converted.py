"""Outputs of convert with given chats, and a function that stores them."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq

from flows.exports.columns import CHATS, MESSAGES
from flows.exports.held import Held, note
from flows.stages.runner.contract import FileOutcome, Result, read_result, write_result
from flows.stages.store.stage import main

START = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)


class Export(NamedTuple):
    """One chat in one source file; messages are (id, minute of sending, text).

    ``ahead`` is the exporter's offset of UTC in minutes, ``sender`` the id and name of all senders.
    ``whole``: whether no message was left out; None if convert does not say what the export holds.
    """

    source: int
    key: str
    name: str | None
    messages: Sequence[tuple[int, int, str]]
    utc: bool = True
    type: str | None = None
    ahead: int = 0
    sender: tuple[str, str] | None = None
    whole: bool | None = None


def rows(export: Export) -> list[dict[str, Any]]:
    form = "html" if export.key.startswith("html-") else "json"
    return [
        {
            "chat_key": export.key,
            "message_id": number,
            "type": "message",
            "sent_at": START + dt.timedelta(minutes=minute) if export.utc else None,
            "sent_local": START.replace(tzinfo=None) + dt.timedelta(minutes=minute + export.ahead),
            "sender_id": export.sender and export.sender[0],
            "sender_name": export.sender and export.sender[1],
            "text": text,
            "revision": f"{minute:03d}-{form}-{sha256(f'{text}{export.utc}'.encode()).hexdigest()[:8]}",
            "source": f"{export.source:06d}-a.zip",
        }
        for number, minute, text in export.messages
    ]


def held(export: Export) -> dict[str, Any]:
    """Return the columns of ``chats.parquet`` about what this export holds."""
    if export.whole is None:
        return {}
    found = Held()
    if own := [row | {"revision": f"{row['revision'][:3]:0>12}.2"} for row in rows(export)]:
        note(pa.RecordBatch.from_pylist(own, MESSAGES), [(found, len(own))])
    return found.columns() | {"whole": export.whole}


def write(folder: Path, *exports: Export) -> Path:
    """Write an output of convert with these exports as one batch."""
    folder.mkdir(parents=True)
    chats: list[dict[str, Any]] = [
        {
            "chat_key": export.key,
            "name": export.name,
            "type": export.type,
            "form": "html" if export.key.startswith("html-") else "json",
            "source": f"{export.source:06d}-a.zip",
            "messages": len(export.messages),
            **held(export),
        }
        for export in exports
    ]
    messages = [row for export in exports for row in rows(export)]
    pq.write_table(pa.Table.from_pylist(chats, CHATS), folder / "chats.parquet")
    pq.write_table(pa.Table.from_pylist(messages, MESSAGES), folder / "messages.parquet")
    write_result(folder, Result("convert", [FileOutcome(chat["source"]) for chat in chats]))
    return folder


def store(url: str, folder: Path) -> int:
    """Store a batch; return the reported number of new rows in the table of messages."""
    return stored(url, folder).counts["rows_new"]


def stored(url: str, folder: Path) -> Result:
    """Store a batch; return the result."""
    output = folder.with_name(f"out-{os.urandom(6).hex()}")
    assert main([str(folder), str(output)], {"TDP_DATABASE_URL": url}) == 0
    result = read_result(output)
    assert result is not None
    return result


def visible(url: str) -> dict[str, list[int]]:
    """Return the message ids of every chat."""
    with psycopg.connect(url) as connection:
        return dict(
            connection.execute(
                "SELECT c.chat_key, array_agg(m.message_id ORDER BY m.message_id)"
                " FROM chats c LEFT JOIN messages m USING (chat_key) GROUP BY c.chat_key"
            ).fetchall()
        )
