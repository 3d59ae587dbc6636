"""One real channel exported both as JSON and as HTML: converted and stored, it is one chat."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
from chat_tables import clear


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
