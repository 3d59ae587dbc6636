"""The store stage with a real PostgreSQL: the rows it loads, in any order."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from chat_tables import clear, tables
from store_runs import START, chat, message, query, spawn, store, write

from flows.stages.runner.contract import FileOutcome


def test_every_column_is_stored(database_url: str, tmp_path: Path) -> None:
    row = message(
        "channel7",
        5,
        42,
        'a "quoted", line\nand \\ another, é 🎉',
        sent_local=START.replace(tzinfo=None) + dt.timedelta(hours=2, minutes=5),
        edited_at=START + dt.timedelta(days=1),
        edited_local=START.replace(tzinfo=None) + dt.timedelta(hours=26),
        sender_id="user1",
        sender_name="",
        action=None,
        entities='[{"type": "bold", "text": "x, \\"y\\""}]',
        media='{"photo": null}',
        reactions="[]",
        reply_to_message_id=4,
        reply_to_peer_id="channel8",
        forward='{"forwarded_from": null}',
        service=None,
        extra='{"new": [1, 2.5, "\\\\"]}',
    )
    chats = [chat("channel7", 42, "News", chat_id=7, type="public_channel", extra='{"unknown": [1]}')]
    result = store(database_url, write(tmp_path / "in", chats, [row]))
    assert result.counts == {"chats": 1, "messages": 1, "rows_new": 1, "rows_changed": 0, "rows_same": 0}
    assert result.files == [FileOutcome("000042-a.zip", counts=result.counts)]
    with psycopg.connect(database_url) as connection:
        cursor = connection.execute("SELECT * FROM messages")
        assert cursor.description is not None
        names = [column.name for column in cursor.description]
        (stored,) = (dict(zip(names, values, strict=True)) for values in cursor)
        (stored_chat,) = connection.execute(
            "SELECT chat_id, type, name, extra, source_id FROM chats"
        ).fetchall()
    assert stored_chat == (7, "public_channel", "News", {"unknown": [1]}, 42)
    expected = row | {"source_id": 42, "joined_from": None}
    del expected["source"]
    for name in ("entities", "media", "reactions", "forward", "extra"):
        expected[name] = json.loads(expected[name])
    assert stored == expected


def test_loading_twice_changes_nothing(database_url: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "in", [chat("channel1", 1)], [message("channel1", n, 1) for n in range(50)])
    assert store(database_url, folder).counts["rows_new"] == 50
    before = tables(database_url)
    again = store(database_url, folder)
    assert (again.counts["rows_new"], again.counts["rows_changed"], again.counts["rows_same"]) == (0, 0, 50)
    assert tables(database_url) == before


def test_the_newer_edit_wins(database_url: str, tmp_path: Path) -> None:
    old = write(tmp_path / "old", [chat("channel1", 1)], [message("channel1", n, 1) for n in (1, 2)])
    edit = message("channel1", 1, 2, "hello!", edited_at=START + dt.timedelta(days=1))
    new = write(
        tmp_path / "new", [chat("channel1", 2)], [edit, message("channel1", 2, 2), message("channel1", 3, 2)]
    )
    for order in itertools.permutations([old, new]):
        clear(database_url)
        for folder in order:
            result = store(database_url, folder)
        texts = query(database_url, "SELECT message_id, text, source_id FROM messages ORDER BY 1")
        assert texts == [(1, "hello!", 2), (2, "hello", 1), (3, "hello", 2)]
        if folder is new:
            assert result.counts | {"chats": 1, "messages": 3} == result.counts
            counts = result.counts
            assert (counts["rows_new"], counts["rows_changed"], counts["rows_same"]) == (1, 1, 1)
            assert [file.counts for file in result.files] == [counts]


def test_each_file_of_a_batch_is_counted_by_itself(database_url: str, tmp_path: Path) -> None:
    store(
        database_url,
        write(tmp_path / "1", [chat("channel1", 1)], [message("channel1", n, 1) for n in (1, 2, 3)]),
    )
    edit = message("channel1", 1, 2, "hello!", edited_at=START + dt.timedelta(days=1))
    folder = write(
        tmp_path / "2",
        [chat("channel1", 2), chat("channel1", 3), chat("channel2", 3), chat("channel3", 4)],
        [edit, *(message("channel1", n, 2) for n in (2, 4))]
        + [message("channel1", n, 3) for n in (1, 4, 5)]
        + [message("channel2", n, 3) for n in (1, 2)]
        + [message("channel3", 1, 4)],
    )
    result = store(database_url, folder)
    named = ("rows_new", "rows_changed", "rows_same")
    counts = {file.name[:6]: tuple(file.counts[name] for name in named) for file in result.files}
    assert counts == {"000002": (1, 1, 1), "000003": (3, 0, 2), "000004": (1, 0, 0)}
    assert tuple(result.counts[name] for name in named) == (5, 1, 3)


@pytest.mark.parametrize("exports", [1, 2])
def test_a_message_twice_in_one_batch_is_stored_in_its_greatest_revision(
    database_url: str, tmp_path: Path, exports: int
) -> None:
    edit = message("channel1", 1, exports, "new", edited_at=START + dt.timedelta(days=1))
    folder = write(
        tmp_path / "in",
        [chat("channel1", n + 1) for n in range(exports)],
        [message("channel1", 1, 1, "old"), edit, message("channel1", 1, 1, "old")],
    )
    counts = store(database_url, folder).counts
    assert query(database_url, "SELECT text FROM messages") == [("new",)]
    assert (counts["rows_new"], counts["rows_same"]) == (1, 2)


def test_the_latest_named_export_of_a_chat_wins_in_every_order(database_url: str, tmp_path: Path) -> None:
    folders = [
        write(tmp_path / "1", [chat("user5@user9", 1, "Anna")], []),
        write(tmp_path / "2", [chat("user5@user9", 2, "Anna B.")], []),
        write(tmp_path / "3", [chat("user5@user9", 3, None)], []),
        write(
            tmp_path / "4", [chat("user5@user9", 4, "Tickets") | {"extra": '{"topic":7}'}], []
        ),  # of a forum
    ]
    for order in itertools.permutations(folders):
        clear(database_url)
        for folder in order:
            store(database_url, folder)
        assert query(database_url, "SELECT name, source_id FROM chats") == [("Anna B.", 2)]


def test_a_source_without_chats_or_messages_is_stored(database_url: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "in", [], [])
    assert store(database_url, folder).counts["messages"] == 0


def test_five_processes_store_overlapping_batches_concurrently(database_url: str, tmp_path: Path) -> None:
    keys = [f"channel{n}" for n in range(4)]
    batches = [
        write(
            tmp_path / str(n),
            [chat(key, n) for key in keys],
            [message(key, m, n, f"edit {m % (n + 1)}") for key in keys for m in range(n * 50, n * 50 + 500)],
        )
        for n in range(1, 6)
    ]
    for batch in batches:
        store(database_url, batch)
    expected = tables(database_url)
    clear(database_url)
    with ThreadPoolExecutor(5) as pool:
        ends = pool.map(lambda n: spawn(database_url, batches[n % 5], tmp_path / f"out{n}"), range(7))
    assert [(end.returncode, end.stderr) for end in ends] == [(0, "")] * 7
    assert tables(database_url) == expected
