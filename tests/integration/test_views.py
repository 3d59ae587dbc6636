"""The views over the JSON columns: what they show, and that no stored value makes them fail."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

VIEWS = ["message_topics", "topics", "reactions", "forwards", "polls", "files"]
COLUMNS = ["media", "reactions", "forward", "service", "action", "reply_to_message_id"]


def add(url: str, message_id: int, chat: str = "channel1", **columns: Any) -> None:
    names = [name for name in COLUMNS if name in columns]
    values = [Jsonb(columns[name]) if name in COLUMNS[:4] else columns[name] for name in names]
    statement = sql.SQL(
        "INSERT INTO messages (chat_key, message_id, type, text, revision, source_id, {})"
        " VALUES (%s, %s, 'message', '', '1', 1, {})"
    ).format(
        sql.SQL(", ").join(map(sql.Identifier, names)), sql.SQL(", ").join([sql.Placeholder()] * len(names))
    )
    with psycopg.connect(url) as connection:
        connection.execute(statement, [chat, message_id, *values])


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(statement.encode()).fetchall()


def test_a_message_belongs_to_the_topic_that_its_chain_of_replies_begins_with(database_url: str) -> None:
    for number, title in ((2, "General"), (4, "Finances")):
        add(database_url, number, action="topic_created", service={"title": title})
    for number, earlier in ((3, 2), (5, 4), (6, 5), (7, 6), (8, 1000)):  # the last one: not in the export
        add(database_url, number, reply_to_message_id=earlier)
    add(database_url, 3, chat="channel2", reply_to_message_id=2)
    found = query(database_url, "SELECT message_id, topic_id FROM message_topics ORDER BY 1")
    assert found == [(2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 4)]
    topics = query(database_url, "SELECT topic_id, title, messages, last_message_id FROM topics ORDER BY 1")
    assert topics == [(2, "General", 1, 3), (4, "Finances", 3, 7)]


def test_replies_in_a_circle_end(database_url: str) -> None:
    add(database_url, 1, action="topic_created", service={"title": "A"}, reply_to_message_id=2)
    add(database_url, 2, reply_to_message_id=1)
    assert query(database_url, "SELECT message_id, topic_id FROM message_topics ORDER BY 1") == [
        (1, 1),
        (2, 1),
    ]


def test_reactions_are_rows(database_url: str) -> None:
    recent = [{"from": "Me", "from_id": "user7", "date": "2026-02-01T10:21:00"}]
    add(
        database_url,
        1,
        reactions=[
            {"type": "emoji", "count": 5, "emoji": "👍", "recent": recent},
            {"type": "custom_emoji", "count": 1, "document_id": "stickers/a.webp"},
            {"type": "paid", "count": 50},
        ],
    )
    found = query(database_url, "SELECT type, reaction, count, recent FROM reactions")
    assert found == [
        ("emoji", "👍", 5, recent),
        ("custom_emoji", "stickers/a.webp", 1, None),
        ("paid", None, 50, None),
    ]


def test_polls_have_a_row_for_each_answer(database_url: str) -> None:
    answers = [
        {"text": "Morning", "voters": "2", "chosen": "false"},
        {"text": "Noon", "voters": 1, "chosen": True},
    ]
    add(
        database_url,
        1,
        media={"poll": {"question": "When?", "closed": False, "total_voters": 3, "answers": answers}},
    )
    found = query(
        database_url, "SELECT question, closed, total_voters, position, answer, voters, chosen FROM polls"
    )
    assert found == [("When?", False, 3, 1, "Morning", 2, False), ("When?", False, 3, 2, "Noon", 1, True)]


def test_forwards_and_files(database_url: str) -> None:
    forward = {"forwarded_from": None, "forwarded_from_id": "channel9", "saved_from": "News"}
    add(
        database_url,
        1,
        forward=forward,
        media={"photo": "photos/1.jpg", "photo_file_size": 10, "width": 3, "height": 2},
    )
    left_out = "(File not included. Change data exporting settings to download.)"
    add(
        database_url,
        2,
        media={"file": left_out, "media_type": "video_file", "duration_seconds": 7, "mime_type": "video/mp4"},
    )
    add(database_url, 3, media={"file": "files/a.pdf", "file_name": "a.pdf"})
    assert query(
        database_url, "SELECT message_id, from_name, from_id, saved_from, first_sent_at FROM forwards"
    ) == [(1, None, "channel9", "News", None)]
    columns = "kind, path, included, file_name, size_bytes, mime_type, width, height, duration_sec"
    assert query(database_url, f"SELECT {columns} FROM files ORDER BY message_id") == [  # noqa: S608 - ours
        ("photo", "photos/1.jpg", True, None, 10, None, 3, 2, None),
        ("video_file", left_out, False, None, None, "video/mp4", None, None, 7),
        ("file", "files/a.pdf", True, "a.pdf", None, None, None, None, None),
    ]


@pytest.mark.parametrize(
    "value", [None, 1, "text", [], [1], ["a"], [None], {}, {"a": 1}, [[]], [{"count": {"a": 1}}]]
)
def test_no_value_makes_a_view_fail(database_url: str, value: Any) -> None:
    media = {
        "poll": {"question": value, "answers": value, "total_voters": value},
        "photo": value,
        "width": value,
    }
    add(database_url, 1, media=media, reactions=value, forward=value, service=value, action="topic_created")
    add(
        database_url,
        2,
        media={"poll": value, "file": value, "file_size": value},
        forward={"forwarded_date_unixtime": value},
    )
    for view in VIEWS:
        query(database_url, f"SELECT * FROM {view}")  # noqa: S608 - ours


def test_every_view_is_described(database_url: str) -> None:
    described = query(
        database_url,
        "SELECT relname FROM pg_class c WHERE relkind = 'v' AND obj_description(c.oid, 'pg_class') <> ''",
    )
    assert {name for (name,) in described} >= set(VIEWS)
