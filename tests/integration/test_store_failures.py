"""The store stage where it fails: its exit statuses, what it stores nevertheless, and what is retried."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pyarrow.parquet as pq
from store_runs import chat, message, query, spawn, store, write

from flows.stages.runner.contract import Result, write_result


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
