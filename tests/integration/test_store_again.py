"""Batches stored again, also by a newer converter: the tables equal those of a first load, in any order."""

from __future__ import annotations

import datetime as dt
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.exports.columns import CHATS, MESSAGES
from flows.exports.held import Held, note
from flows.stages.runner.contract import FileOutcome, Result, entry_name, read_result, write_result
from flows.stages.store.stage import main

START = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)
SOURCES = range(1, 7)
DATA = "messages", "chats", "chat_clues", "chat_aliases", "joined_messages", "joined_chats"
DATA += "chat_exports", "missing_messages"
#: One personal chat under all its keys, and a channel.
KEYS: dict[str, str | None] = {
    "user7": "Anna",
    "user7@user9": "Anna",
    "html-00000000000000aa": "Anna",
    "channel5": None,
}

Export = dict[str, list[dict[str, Any]]]


def export(source: int, converter: int) -> Export:
    """Return the rows that this version of the converter makes from a source file.

    The newer version changes every message, drops some, and has another key for the channel.
    """
    content = random.Random(source)
    made: Export = {"chats": [], "messages": []}
    for key in content.sample(sorted(KEYS), 2):
        stored = "channel55" if key == "channel5" and converter == 2 else key
        place = {"chat_key": stored, "source": entry_name(source, "a.zip")}
        own = [row | place for row in messages(content, key, converter)]
        made["chats"].append(chat(key, own) | place | {"whole": source % 3 > 0})
        made["messages"] += own
    return made


def messages(content: random.Random, key: str, converter: int) -> list[dict[str, Any]]:
    """Return the rows of one chat's messages, without their chat and source."""
    own: list[dict[str, Any]] = []
    for number in range(1, 15):
        state = content.choice([None, "as it was", "liked", "edited"])
        if state is None or (converter == 2 and number % 7 == 0):
            continue
        edited = number + 100 * (state == "edited")
        extra = f'{{"state": "{state}", "converter": {converter}}}'
        checksum = random.Random(f"{key} {number} {extra}").getrandbits(32)
        own.append(
            {
                "message_id": number,
                "type": "message",
                "sent_at": START + dt.timedelta(minutes=number),
                "text": f"hello {number}",
                "extra": extra,
                "revision": f"{edited:012}.{1 + (form(key) == 'json')}.{checksum:010}",
            }
        )
    return own


def chat(key: str, own: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of a chat with these messages."""
    held = Held()
    if own:
        note(pa.RecordBatch.from_pylist(own, MESSAGES), [(held, len(own))])
    return {"name": KEYS[key], "form": form(key), "messages": len(own)} | held.columns()


def form(key: str) -> str:
    return "html" if key.startswith("html") else "json"


def store(url: str, folder: Path, source: int, made: Export) -> Result:
    """Run the stage in this process for the batch of this source file, and record it as the gate does."""
    folder = folder / os.urandom(4).hex()
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(made["chats"], CHATS), folder / "chats.parquet")
    pq.write_table(pa.Table.from_pylist(made["messages"], MESSAGES), folder / "messages.parquet")
    write_result(folder, Result("convert", [FileOutcome(entry_name(source, "a.zip"))]))
    output = folder.with_name(f"{folder.name}-stored")
    with psycopg.connect(url, autocommit=True) as connection:
        run = connection.execute(
            "INSERT INTO stage_runs (batch_id, stage, attempt, host, pid, fenced_at, started_at)"
            " VALUES (%s, 'store', 1, 'here', 1, now(), now()) RETURNING stage_run_id",
            [f"batch_{source:06}"],
        ).fetchone()
        assert main([str(folder), str(output)], {"TDP_DATABASE_URL": url}) == 0
        connection.execute(
            "UPDATE stage_runs SET finished_at = clock_timestamp(), outcome = 'COMPLETED'"
            " WHERE stage_run_id = %s",
            run,
        )
    result = read_result(output)
    assert result is not None
    return result


def tables(url: str) -> dict[str, list[Any]]:
    with psycopg.connect(url) as connection:
        return {
            table: sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr)  # type: ignore[call-overload] # noqa: S608 - names of this file
            for table in DATA
        }


@contextmanager
def backfill(url: str) -> Iterator[UUID]:
    """Register a live backfill of all batches."""
    run_id = uuid4()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 1))", [str(run_id)])
        connection.execute(
            "INSERT INTO run_batches (flow_run_id, position, batch_id, from_stage)"
            " SELECT %s, row_number() OVER (), batch_id, 'convert' FROM batch_processing",
            [run_id],
        )
        yield run_id


@pytest.fixture
def ledger(database_url: str) -> str:
    """Return the URL of a ledger with one batch per source file."""
    with psycopg.connect(database_url) as connection:
        for source in SOURCES:
            connection.execute(
                "INSERT INTO source_files (source_id, sha256, name, size_bytes, stored_path)"
                " OVERRIDING SYSTEM VALUE VALUES (%s, %s, 'a.zip', 1, '/gone')",
                [source, f"{source:064}"],
            )
            batch = f"batch_{source:06}"
            connection.execute("INSERT INTO batch_processing (batch_id, file_count) VALUES (%s, 1)", [batch])
            connection.execute(
                "INSERT INTO batch_files (batch_id, source_id, position) VALUES (%s, %s, 1)", [batch, source]
            )
    return database_url


def clear(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(f"TRUNCATE {', '.join(DATA)}, stage_runs")  # type: ignore[arg-type] # names of this file


@pytest.mark.parametrize("seed", range(12))
def test_a_backfill_with_a_newer_converter_is_a_fresh_load(ledger: str, tmp_path: Path, seed: int) -> None:
    order = random.Random(seed)
    for source in SOURCES:
        store(ledger, tmp_path, source, export(source, 2))
    fresh = tables(ledger)
    clear(ledger)

    for source in order.sample(SOURCES, len(SOURCES)):
        store(ledger, tmp_path, source, export(source, 1))
    assert fresh["missing_messages"]
    assert tables(ledger) != fresh
    with backfill(ledger):
        for source in order.sample(SOURCES, len(SOURCES)):
            store(ledger, tmp_path, source, export(source, 2))

    assert tables(ledger) == fresh


def test_storing_the_same_again_changes_nothing(ledger: str, tmp_path: Path) -> None:
    for source in SOURCES:
        store(ledger, tmp_path, source, export(source, 1))
    before = tables(ledger)
    result = store(ledger, tmp_path, 2, export(2, 1))
    assert tables(ledger) == before
    assert result.counts["rows_replaced"] > 0


def test_a_source_that_has_become_empty_leaves_no_rows(ledger: str, tmp_path: Path) -> None:
    store(ledger, tmp_path, 1, export(1, 1))
    store(ledger, tmp_path, 1, {"chats": [], "messages": []})
    assert not any(tables(ledger).values())


def test_a_source_that_is_refused_now_keeps_its_rows(ledger: str, tmp_path: Path) -> None:
    store(ledger, tmp_path, 1, export(1, 1))
    before = tables(ledger)
    made = export(1, 2)
    made["messages"][0]["extra"] = '{"invalid": '
    (outcome,) = store(ledger, tmp_path, 1, made).files
    assert outcome.status == "quarantined"
    assert tables(ledger) == before


def test_rows_that_a_killed_store_committed_are_replaced(ledger: str, tmp_path: Path) -> None:
    store(ledger, tmp_path, 1, export(1, 1))
    with psycopg.connect(ledger) as connection:
        connection.execute("UPDATE stage_runs SET outcome = 'LOST'")
    before = tables(ledger)
    store(ledger, tmp_path, 1, export(1, 1))
    assert tables(ledger) == before
