"""`tdp export`: what is read back is what was stored."""

from __future__ import annotations

import csv
import datetime as dt
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import openpyxl
import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_tables import run_tdp as run
from converted import Export, store, write
from exports_of_tables import SENT, TEXTS, export, fill, many

from flows.ledger.connection import connection
from flows.tables.copying import batches, query
from flows.tables.orders import Choice, What
from flows.tables.relations import COLUMNS, schema
from flows.tables.sessions import prepare


@pytest.fixture
def filled(database_url: str) -> str:
    return fill(database_url)


def expected(url: str) -> list[dict[str, Any]]:
    columns = [name for name in COLUMNS[What.messages] if name != "chat_name"]
    with psycopg.connect(url, row_factory=psycopg.rows.dict_row) as opened:
        table = "messages LEFT JOIN missing_messages USING (chat_key, message_id)"
        found = opened.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY chat_key, message_id")  # noqa: S608
        return list(found)


def ordered(rows: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["chat_key"], int(row["message_id"])))


def test_parquet_has_every_row_and_type(filled: str, tmp_path: Path) -> None:
    table = pq.read_table(export(filled, tmp_path / "all.parquet"))
    assert table.schema.names == list(COLUMNS[What.messages])
    assert table.schema.field("sent_at").type == pa.timestamp("us", tz="UTC")
    found = ordered(table.to_pylist())
    assert {row.pop("chat_name") for row in found} == {"News", "Old news"}
    for row in found:
        row["reactions"] = row["reactions"] and json.loads(row["reactions"])
    assert found == expected(filled)


def test_csv_is_read_back_by_pandas_and_by_the_standard_library(filled: str, tmp_path: Path) -> None:
    out = export(filled, tmp_path / "all.csv")
    with out.open(encoding="utf-8", newline="") as file:
        found = ordered(list(csv.DictReader(file)))
    assert [row["text"] for row in found] == [*TEXTS, "only a clock"]
    assert found[0]["sent_at"] == "2024-05-01 12:00:00.5+00"
    assert found[-1]["sent_at"] == ""
    frame = pd.read_csv(out, parse_dates=["sent_at"], keep_default_na=False, na_values={"sent_at": [""]})
    assert sorted(frame["text"]) == sorted([*TEXTS, "only a clock"])
    assert frame["sent_at"].max() == pd.Timestamp(SENT + dt.timedelta(days=len(TEXTS) - 1))


def test_csv_for_excel_has_its_mark_and_no_formulas(filled: str, tmp_path: Path) -> None:
    with psycopg.connect(filled) as opened:
        for number, text in ((2, "＝1+1"), (3, "\n=1+1")):
            opened.execute("UPDATE messages SET text = %s WHERE message_id = %s", [text, number])
    out = export(filled, tmp_path / "all.csv", "--bom", "--escape-formulas")
    assert out.read_bytes().startswith(b"\xef\xbb\xbfchat_key,")
    with out.open(encoding="utf-8-sig", newline="") as file:
        found = {row["message_id"]: row for row in csv.DictReader(file) if row["chat_key"] == "channel1"}
    assert [found[number]["text"] for number in "234"] == ["'＝1+1", "'\n=1+1", "'=1+1"]
    assert (found["1"]["text"], found["1"]["sent_at"]) == ("plain", "2024-05-02 12:00:00.5+00")


def test_json_lines_nest_json_and_keep_lines_apart(filled: str, tmp_path: Path) -> None:
    lines = export(filled, tmp_path / "all.jsonl").read_text().splitlines()
    found = ordered([json.loads(line) for line in lines])
    assert [row["text"] for row in found] == [*TEXTS, "only a clock"]
    assert found[1]["reactions"] == [{"type": "emoji", "count": 1}]
    assert found[0]["sent_at"] == "2024-05-01T12:00:00.5+00:00"
    assert list(found[0]) == list(COLUMNS[What.messages])


def test_sqlite_is_read_back(filled: str, tmp_path: Path) -> None:
    with sqlite3.connect(export(filled, tmp_path / "all.sqlite")) as database:
        rows = database.execute("SELECT text, sent_at FROM messages ORDER BY chat_key, message_id").fetchall()
        assert database.execute("SELECT typeof(message_id) FROM messages").fetchone() == ("integer",)
    database.close()
    assert [text for text, _ in rows] == [*TEXTS, "only a clock"]
    assert (rows[0][1], rows[-1][1]) == ("2024-05-01 12:00:00.5+00", None)


def test_duckdb_is_read_back(filled: str, tmp_path: Path) -> None:
    with duckdb.connect(str(export(filled, tmp_path / "all.duckdb")), read_only=True) as database:
        rows = database.execute(
            "SELECT text, epoch_us(sent_at) FROM messages ORDER BY chat_key, message_id"
        ).fetchall()
    assert [text for text, _ in rows] == [*TEXTS, "only a clock"]
    assert rows[0][1] == SENT.timestamp() * 1_000_000


def test_excel_has_texts_and_no_formulas(filled: str, tmp_path: Path) -> None:
    done = run(filled, "export", tmp_path / "all.xlsx")
    assert done.stdout.endswith("; 1 text cut to 32,767 characters, as long as a cell can be\n")
    book = openpyxl.load_workbook(tmp_path / "all.xlsx", read_only=True)
    header, *rows = book["messages"].iter_rows(values_only=True)
    book.close()
    assert list(header) == list(COLUMNS[What.messages])
    found = ordered([dict(zip(header, row, strict=True)) for row in rows])
    assert found[4]["text"] == "=1+1"
    assert len(found[8]["text"]) == 32_767


def test_a_chat_and_a_time_are_chosen(filled: str, tmp_path: Path) -> None:
    def ids(*options: object) -> list[tuple[str, int]]:
        table = pq.read_table(export(filled, tmp_path / "some.parquet", "--force", *options))
        return sorted(zip(*table.select(["chat_key", "message_id"]).to_pydict().values(), strict=True))

    assert ids("--chat", "old") == ids("--chat", 2) == ids("--chat", "channel2") == [("channel2", 1)]
    assert len(ids("--chat", "news", "--chat", "channel2")) == len(TEXTS) + 1, (
        "a whole name is no part of one"
    )
    assert ids("--since", "2024-05-03T00:00:00+00:00", "--until", "2024-05-04T00:00:00+00:00") == [
        ("channel1", 2),
        ("channel2", 1),
    ]


@pytest.mark.parametrize("what", list(What))
def test_every_relation_can_be_exported(filled: str, tmp_path: Path, what: What) -> None:
    table = pq.read_table(export(filled, tmp_path / "all.parquet", "--what", what))
    assert table.schema.names == schema(what).names
    assert run(filled, "export", "-", "--what", what).stdout.startswith(",".join(schema(what).names))


def test_senders_are_counted(filled: str) -> None:
    (sender,) = map(
        json.loads, run(filled, "export", "-", "--what", "senders", "--format", "jsonl").stdout.splitlines()
    )
    assert (sender["sender_id"], sender["messages"], sender["chats"]) == ("user1", len(TEXTS) + 1, 2)


def test_an_empty_result_is_a_file_without_rows(filled: str, tmp_path: Path) -> None:
    done = run(filled, "export", tmp_path / "none.parquet", "--since", "2030-01-01")
    assert (done.exit_code, done.stdout.count("0 rows")) == (0, 1)
    assert "nothing matches" in done.stdout
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0
    done = run(filled, "export", "-", "--since", "2030-01-01")
    assert (done.exit_code, done.stdout.count("\n")) == (0, 1)


def test_a_load_does_not_wait_for_an_export_and_is_not_in_it(database_url: str, tmp_path: Path) -> None:
    many(database_url, 200_000)
    load = Export(1, "channel9", "Nine", [(n, n, "new") for n in range(200_001, 300_001)])
    folder = write(tmp_path / "in", load)
    columns = schema(What.messages)
    with connection(database_url, readonly=True, autocommit=True) as reader:
        prepare(reader, None)
        found = batches(reader, query(What.messages, columns.names), Choice(), columns)
        rows = next(found).num_rows  # the COPY is at work, and waits for its reader
        assert store(f"{database_url}&options=-c%20lock_timeout%3D1s", folder) == 100_000
        assert rows + sum(batch.num_rows for batch in found) == 200_000


def test_memory_does_not_grow_with_the_rows(filled: str, tmp_path: Path) -> None:
    many(filled, 400_000)
    code = "import resource, sys; from flows.cli.main import app; app(standalone_mode=False);"
    code += "sys.stderr.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))"
    env = os.environ | {"TDP_DATABASE_URL": filled, "TDP_HOME": str(tmp_path / "home")}

    def peak(*arguments: object) -> int:
        done = subprocess.run(
            [sys.executable, "-c", code, "export", *map(str, arguments)],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return int(done.stderr) // 1024

    few = peak(tmp_path / "few.parquet", "--chat", "News")
    assert peak(tmp_path / "all.parquet") - few < 150, (
        "in MB; the rows have 60 MB as text, some 200 MB as objects"
    )
    assert peak(tmp_path / "all.csv") - few < 20
