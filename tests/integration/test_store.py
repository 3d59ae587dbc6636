"""The store stage with a real PostgreSQL: the rows it loads, in any order, and its exit statuses."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_tables import clear, tables

from flows.exports.columns import CHATS, MESSAGES
from flows.stages.runner.contract import FileOutcome, Result, entry_name, read_result, write_result
from flows.stages.store.stage import main

START = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)


def chat(key: str, source: int, name: str | None = "Anna", **values: Any) -> dict[str, Any]:
    form = "html" if key.startswith("html-") else "json"
    return {"chat_key": key, "name": name, "form": form, "source": entry_name(source, "a.zip"), **values}


def message(key: str, number: int, source: int, text: str = "hello", **values: Any) -> dict[str, Any]:
    """Return a message sent ``number`` minutes after START, unless ``sent_at`` is given."""
    row: dict[str, Any] = {
        "chat_key": key,
        "message_id": number,
        "type": "message",
        "sent_at": START + dt.timedelta(minutes=number),
        "text": text,
        "source": entry_name(source, "a.zip"),
    } | values
    form = "html" if key.startswith("html-") else "json"
    edited: dt.datetime = row.get("edited_at") or row["sent_at"] or START
    return {"revision": f"{edited.timestamp():012.0f}-{form > 'html':d}-{hash_of(row)}", **row}


def hash_of(row: dict[str, Any]) -> str:
    content = {name: value for name, value in row.items() if name not in ("chat_key", "source")}
    return f"{hash(json.dumps(content, default=str, sort_keys=True)) & 0xFFFFFFFF:08x}"


def write(folder: Path, chats: Sequence[dict[str, Any]], messages: Sequence[dict[str, Any]]) -> Path:
    """Write an output of convert."""
    folder.mkdir(parents=True)
    rows = [
        {**c, "messages": sum((m["chat_key"], m["source"]) == (c["chat_key"], c["source"]) for m in messages)}
        for c in chats
    ]
    pq.write_table(pa.Table.from_pylist(rows, CHATS), folder / "chats.parquet")
    pq.write_table(pa.Table.from_pylist(list(messages), MESSAGES), folder / "messages.parquet")
    sources = dict.fromkeys(row["source"] for row in [*chats, *messages])
    write_result(folder, Result("convert", [FileOutcome(name) for name in sources]))
    return folder


def store(url: str, folder: Path) -> Result:
    """Run the stage in this process."""
    output = folder.with_name(f"{folder.name}-{os.urandom(4).hex()}")
    assert main([str(folder), str(output)], {"TDP_DATABASE_URL": url}) == 0
    result = read_result(output)
    assert result is not None
    return result


def spawn(url: str | None, *arguments: object) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "TDP_DATABASE_URL"}
    return subprocess.run(
        [sys.executable, "-m", "flows.stages.store", *map(str, arguments)],
        env=env | ({"TDP_DATABASE_URL": url} if url else {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(statement).fetchall()


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
    ]
    for order in itertools.permutations(folders):
        clear(database_url)
        for folder in order:
            store(database_url, folder)
        assert query(database_url, "SELECT name, source_id FROM chats") == [("Anna B.", 2)]


def test_a_source_without_chats_or_messages_is_stored(database_url: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "in", [], [])
    assert store(database_url, folder).counts["messages"] == 0


def test_a_complete_output_is_not_stored_again(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", [], [])
    done = write(tmp_path / "out", [], [])
    write_result(done, Result("store", counts={"rows_new": 3}))
    process = spawn(None, folder, done)
    assert (process.returncode, process.stderr) == (0, "")
    assert msgspec.json.decode(process.stdout, type=Result).counts == {"rows_new": 3}


def test_exit_statuses_of_wrong_usage_and_of_a_database_that_is_not_set_up(
    database_url: str, postgres: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "in", [chat("channel1", 1)], [message("channel1", 1, 1)])
    (tmp_path / "empty").mkdir()
    for status, url, arguments in [
        (64, database_url, [folder]),
        (64, database_url, [tmp_path / "empty", tmp_path / "out"]),
        (75, f"postgresql:///x?host={tmp_path}", [folder, tmp_path / "out"]),
        (78, postgres, [folder, tmp_path / "out"]),
        (78, None, [folder, tmp_path / "out"]),
        (78, "postgresql+psycopg2://me:secret@host/x", [folder, tmp_path / "out"]),
    ]:
        process = spawn(url, *arguments)
        assert process.returncode == status
        assert re.fullmatch(r"store: .*\n", process.stderr)
        assert "secret" not in process.stderr
    assert not (tmp_path / "out").exists()


def test_invalid_input_stores_nothing(database_url: str, tmp_path: Path) -> None:
    good = message("channel1", 1, 1)
    folder = write(tmp_path / "json", [chat("channel1", 1)], [good, message("channel1", 2, 2, media="{oops")])
    process = spawn(database_url, folder, tmp_path / "out")  # the row's source file has no chat
    assert (process.returncode, process.stderr.count("\n")) == (65, 1)
    assert "invalid input syntax for type json" in process.stderr
    folder = write(tmp_path / "columns", [chat("channel1", 1)], [good])
    table = pq.read_table(folder / "messages.parquet")
    pq.write_table(table.drop_columns(["text", "revision"]), folder / "messages.parquet")
    process = spawn(database_url, folder, tmp_path / "out")
    assert process.returncode == 65
    assert "messages.parquet lacks the columns revision, text" in process.stderr
    assert query(database_url, "SELECT * FROM chats") == query(database_url, "SELECT * FROM messages") == []
    assert not (tmp_path / "out").exists()


LONG = "".join(map(chr, range(300, 3300)))  # more than a page of an index holds, even compressed


def refused_batch(folder: Path) -> Path:
    """Write three files; PostgreSQL does not accept a chat of the first and a message of the last."""
    chats = [chat("channel1", 41, LONG), chat("channel1", 42), chat("channel2", 42), chat("channel3", 43)]
    messages = [
        message("channel1", 1, 41),
        message("channel1", 1, 42),
        message("channel2", 2, 42),
        message("channel3", 3, 43, extra='{"invalid": '),
    ]
    return write(folder, chats, messages)


def test_a_row_that_postgresql_refuses_costs_its_file_only(database_url: str, tmp_path: Path) -> None:
    result = store(database_url, refused_batch(tmp_path / "in"))
    assert [(file.name[:6], file.status) for file in result.files] == [
        ("000041", "quarantined"), ("000042", "ok"), ("000043", "quarantined"),
    ]  # fmt: skip
    first, _, last = (file.reason or "" for file in result.files)
    assert first.startswith("PostgreSQL does not accept one of its rows: index row size")
    assert "invalid input syntax for type json" in last
    assert result.counts == {"chats": 2, "messages": 2, "rows_new": 2, "rows_changed": 0, "rows_same": 0}
    assert query(database_url, "SELECT chat_key, source_id FROM messages ORDER BY 1") == [
        ("channel1", 42), ("channel2", 42),
    ]  # fmt: skip
    assert query(database_url, "SELECT chat_key, name FROM chats ORDER BY 1") == [
        ("channel1", "Anna"), ("channel2", "Anna"),
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_batch_of_one_file_with_a_refused_row_is_completed(database_url: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "in", [chat("channel1", 41, LONG)], [message("channel1", 1, 41)])
    (file,) = store(database_url, folder).files
    assert file.status == "quarantined"
    assert query(database_url, "SELECT count(*) FROM messages") == [(0,)]


def test_an_input_output_error_is_retried(database_url: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "in", [chat("channel1", 1)], [message("channel1", 1, 1)])
    (folder / "messages.parquet").unlink()
    (folder / "messages.parquet").symlink_to("messages.parquet")
    process = spawn(database_url, folder, tmp_path / "out")
    assert (process.returncode, process.stderr.count("\n")) == (75, 1)
    assert "store: input/output error: " in process.stderr


def test_a_terminated_session_stores_nothing_and_is_retried(database_url: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "in", [chat("channel1", 1)], [message("channel1", 1, 1)])
    with psycopg.connect(database_url) as blocker, ThreadPoolExecutor(1) as pool:
        blocker.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
        running = pool.submit(spawn, database_url, folder, tmp_path / "out")
        with psycopg.connect(database_url, autocommit=True) as admin:
            ended: list[Any] = []
            while not ended and not running.done():
                ended = admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE wait_event = 'relation' AND datname = current_database()"
                ).fetchall()
        process = running.result()
    assert process.returncode == 75
    assert re.fullmatch(r"store: the database is unavailable or ended the session: .*\n", process.stderr)
    assert query(database_url, "SELECT chat_key FROM chats") == []
    assert spawn(database_url, folder, tmp_path / "out").returncode == 0
    assert query(database_url, "SELECT chat_key FROM messages") == [("channel1",)]


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
