"""One real channel exported both as JSON and as HTML: converted and stored, it is one chat."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from chat_tables import clear
from html_pages import message, page, text


def run(stage: str, source: Path, output: Path, url: str = "") -> None:
    subprocess.run(
        [sys.executable, "-m", f"flows.stages.{stage}", source, output],
        env=os.environ | {"TDP_DATABASE_URL": url},
        stdout=subprocess.DEVNULL,
        timeout=60,
        check=True,
    )


def converted(folder: Path, *sources: tuple[int, Path]) -> Path:
    for number, path in sources:
        entry = folder / "extracted" / f"{number:06d}-{path.name}"
        entry.mkdir(parents=True)
        shutil.copy(path, entry)
    run("convert", folder / "extracted", folder / "converted")
    return folder / "converted"


def store(url: str, *batches: Path, at_once: int = 1) -> None:
    clear(url)
    for batch in batches:
        shutil.rmtree(batch.with_name("stored"), ignore_errors=True)
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda batch: run("store", batch, batch.with_name("stored"), url), batches))


@pytest.mark.parametrize("chat", ["channel", "saved messages"])
def test_summer_messages_of_both_forms_are_stored_once(database_url: str, tmp_path: Path, chat: str) -> None:
    """HTML labels them with the winter's offset, and saved messages with their owner's name."""
    local = [f"2025-0{month}-14T14:00:0{month}" for month in range(1, 8)]
    utc = [datetime.fromisoformat(time).replace(tzinfo=ZoneInfo("Europe/Berlin")) for time in local]
    head = {"type": "public_channel", "id": 77, "name": "Nora Field"}
    if chat != "channel":
        head = {"type": "saved_messages", "id": 9, "name": None}
    sender = {"from": "Nora Field", "from_id": "channel77" if chat == "channel" else "user9"}
    messages: list[dict[str, Any]] = [
        {
            "id": n,
            "type": "message",
            "date": local[n],
            "date_unixtime": f"{utc[n].timestamp():.0f}",
            "text": f"{n}",
        }
        for n in range(7)
    ]
    (tmp_path / "result.json").write_text(
        json.dumps(head | {"messages": [one | sender for one in messages]}, indent=1)
    )
    shown = [f"{time[8:10]}.{time[5:7]}.{time[:4]} {time[11:]} UTC+01:00" for time in local]
    pages = [message(n, text(f"{n}"), when=shown[n], sender="Nora Field") for n in range(7)]
    only_html = message(7, text("7"), when="15.07.2025 14:00:00 UTC+01:00", sender="Nora Field")
    (tmp_path / "messages.html").write_text(page(*pages, only_html, name="Nora Field"))
    json_batch = converted(tmp_path / "json", (1, tmp_path / "result.json"))
    html_batch = converted(tmp_path / "html", (2, tmp_path / "messages.html"))
    for batches in ([json_batch, html_batch], [html_batch, json_batch]):
        store(database_url, *batches)
        with psycopg.connect(database_url) as connection:
            chats = connection.execute("SELECT chat_key FROM chats").fetchall()
            rows = connection.execute(
                "SELECT sent_at, source_id FROM messages ORDER BY message_id"
            ).fetchall()
        assert chats == [("channel77" if chat == "channel" else "user9@user9",)]
        assert rows == [*((time, 1) for time in utc), (None, 2)]


def test_a_channel_in_both_forms_is_one_chat(database_url: str, samples: Path, tmp_path: Path) -> None:
    sources = (
        (1, samples / "public_channel_twin" / "result.json"),
        (2, samples / "public_channel_twin" / "messages.html"),
    )
    json, html = (converted(tmp_path / source[1].suffix, source) for source in sources)
    ends = []
    for batches, at_once in [
        ([json, html], 1),
        ([html, json], 1),
        ([json, html], 2),
        ([converted(tmp_path / "both", *sources)], 1),
    ]:
        store(database_url, *batches, at_once=at_once)
        with psycopg.connect(database_url) as connection:
            chats = connection.execute("SELECT chat_key, type, form FROM chats").fetchall()
            counts = connection.execute(
                "SELECT chat_key, source_id, count(*), count(*) FILTER (WHERE type = 'message')"
                " FROM messages GROUP BY 1, 2"
            ).fetchall()
            aliases = connection.execute("SELECT chat_key FROM chat_aliases").fetchall()
            ends.append(connection.execute("SELECT m::text FROM messages m ORDER BY 1").fetchall())
        ((key, *known),) = chats
        assert (key[:7], *known) == ("channel", "public_channel", "json")
        assert counts == [(key, 1, 213, 208)], "JSON wins for every message"
        assert aliases == [(key,)]
    assert all(end == ends[0] for end in ends)
