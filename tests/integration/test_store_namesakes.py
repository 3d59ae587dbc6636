"""Chats that share a name or a peer, converted and stored: no message is lost or duplicated."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from chat_tables import clear

from flows.stages.convert.stage import convert
from flows.stages.store.stage import main

#: A message: its id, the minute it was sent, its text.
Message = tuple[int, int, str]
Write = Callable[[Iterable[Message]], dict[str, str]]

CREATED = """
<div class="message service" id="message-1"><div class="body details">1 May 2024</div></div>
<div class="message service" id="message1"><div class="body details">Channel «News» created</div></div>
"""


def sent(minute: int) -> datetime:
    return datetime(2024, 5, 1, 12) + timedelta(minutes=minute)  # noqa: DTZ001 - the exporter's wall clock


def pages(messages: Iterable[Message], before: str = "") -> dict[str, str]:
    """Return one chat as HTML, which identifies the chat by its name only."""
    divs = [
        f'<div class="message default" id="message{number}"><div class="body"><div class="date details"'
        f' title="{sent(minute):%d.%m.%Y %T} UTC+00:00"></div><div class="text">{text}</div></div></div>'
        for number, minute, text in messages
    ]
    head = '<div class="page_header"><div class="text bold">Saved Messages</div></div>'
    return {"messages.html": f'<html>{head}<div class="history">{before}{"".join(divs)}</div></html>'}


def channel_pages(messages: Iterable[Message]) -> dict[str, str]:
    return pages(messages, CREATED)


def personal(messages: Iterable[Message]) -> dict[str, str]:
    """Return one chat as JSON in which only the peer writes, so that the account remains unknown."""
    written = [
        {"id": number, "type": "message", "date": f"{sent(minute):%FT%T}", "from_id": "user5", "text": text}
        for number, minute, text in messages
    ]
    export = {"name": "Mom", "type": "personal_chat", "id": 5, "messages": written}
    return {"result.json": json.dumps(export, indent=1)}


def stored(url: str, folder: Path, exports: Iterable[dict[str, str]]) -> list[list[Message]]:
    """Convert and store each export as a separate batch; return the stored messages of every chat."""
    clear(url)
    for number, files in enumerate(exports, 1):
        batch = folder / os.urandom(6).hex()
        entry = batch / "extracted" / f"{number:06d}-export.zip"
        entry.mkdir(parents=True)
        for name, content in files.items():
            (entry / name).write_text(content)
        convert(batch / "extracted", batch / "converted")
        assert main([str(batch / "converted"), str(batch / "stored")], {"TDP_DATABASE_URL": url}) == 0
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT chat_key, message_id, sent_local, text FROM messages WHERE type = 'message' ORDER BY 1, 2"
        ).fetchall()
    return sorted(
        [(number, int((at - sent(0)).total_seconds()) // 60, text) for _, number, at, text in rows]
        for _, rows in itertools.groupby(found, lambda row: row[0])
    )


@pytest.mark.parametrize("form", [pages, channel_pages, personal])
def test_chats_of_one_name_with_the_same_ids_stay_apart(
    database_url: str, tmp_path: Path, form: Write
) -> None:
    chats = [[(n, n + person, f"{n} of {person}") for n in range(5, 9)] for person in (1, 2, 3)]
    assert stored(database_url, tmp_path, map(form, chats)) == chats
    assert stored(database_url, tmp_path, map(form, reversed(chats))) == chats


@pytest.mark.parametrize("form", [pages, channel_pages, personal])
def test_a_chat_exported_several_times_is_one_chat(database_url: str, tmp_path: Path, form: Write) -> None:
    chat = [(n, n, f"day {n}") for n in range(5, 25)]
    first, later, rest, middle = chat[:6], chat[:10], chat[9:], chat[8:12]
    exports = [first, later, middle, rest]
    for n in range(len(exports)):
        exports = exports[n:] + exports[:n]
        assert stored(database_url, tmp_path, map(form, exports)) == [chat]
