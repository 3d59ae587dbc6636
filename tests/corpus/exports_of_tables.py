"""Chats whose texts are hard to write into files, and `tdp export` of them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import psycopg
from chat_tables import run_tdp as run
from psycopg.types.json import Jsonb

SENT = dt.datetime(2024, 5, 1, 12, 0, 0, 500_000, tzinfo=dt.UTC)
TEXTS = [
    "",
    "plain",
    '"quoted", with a comma',
    "two\nlines\r\nand more",
    "=1+1",
    "é 🎉 北京",
    "\\.",
    "\\N",
    "x" * 40_000,
]
CHAT = "INSERT INTO chats VALUES (%s, %s, 'public_channel', %s, NULL, 'json', NULL, '1', 7)"
MESSAGE = """
INSERT INTO messages (chat_key, message_id, type, sent_at, sent_local, sender_id, sender_name, text,
                      reactions, revision, source_id)
VALUES (%s, %s, 'message', %s, %s, 'user1', 'Ann, "the" 1st', %s, %s, '1', 7)
"""


def fill(url: str) -> str:
    """Store two chats, texts of all kinds and one without a certain instant, and return the URL."""
    with psycopg.connect(url) as opened:
        opened.execute(CHAT, ["channel1", 1, "News"])
        opened.execute(CHAT, ["channel2", 2, "Old news"])
        for number, text in enumerate(TEXTS):
            sent = SENT + dt.timedelta(days=number)
            reactions = Jsonb([{"type": "emoji", "count": number}]) if number % 2 else None
            opened.execute(MESSAGE, ["channel1", number, sent, sent.replace(tzinfo=None), text, reactions])
        opened.execute(MESSAGE, ["channel2", 1, None, SENT.replace(day=3, tzinfo=None), "only a clock", None])
        opened.execute("INSERT INTO missing_messages VALUES ('channel1', 3, 8)")
    return url


def export(url: str, out: Path, *options: object) -> Path:
    done = run(url, "export", out, *options)
    assert done.exit_code == 0, done.output or done.exception
    return out


def many(url: str, rows: int = 100_000) -> None:
    with psycopg.connect(url) as opened:
        opened.execute(
            "INSERT INTO messages (chat_key, message_id, type, text, revision, source_id)"
            " SELECT 'channel9', n, 'message', repeat(md5(n::text), 3), '1', 7 FROM generate_series(1, %s) n",
            [rows],
        )
