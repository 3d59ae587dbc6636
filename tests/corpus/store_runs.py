"""Outputs of convert, row by row, and runs of the store stage on them."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq

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
