"""`tdp status` lists the entries of the inbox that were not received yet."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from flows.batches.inbox import scan
from flows.cli.reports import app
from flows.ledger.session import connect, fetch
from flows.settings import Settings


def watch(settings: Settings, path: Path, quiet: float) -> None:
    """Note the entry as recovery does when it checks the inbox."""

    async def note() -> None:
        async with await connect(settings.database, "test") as session:
            sightings = [scan(settings.inbox)[0][path].sighting]
            await fetch(session, "watch_files", sightings=sightings, quiet_seconds=quiet)

    asyncio.run(note())


def test_what_settles_in_the_inbox_is_named(installation: Settings) -> None:
    def lines() -> list[str]:
        page = CliRunner().invoke(app, ["status"], env={"COLUMNS": "300"}).stdout
        return [line.strip() for line in page.splitlines() if "inbox" in line]

    assert lines() == [], "there is no inbox yet"
    inbox = installation.inbox
    folder = inbox / "ChatExport_2026-11-30"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    os.utime(folder / "result.json", (1, 1))
    settles = "In the inbox: ChatExport_2026-11-30: a folder, received when it has not changed for 30 s"
    assert lines() == [settles]
    watch(installation, folder, 30)
    (entry,) = lines()
    assert entry.startswith(f"{settles} (")
    assert entry.endswith(" s so far)")
    with (inbox / "a.zip").open("w"):
        assert lines()[1] == "In the inbox: a.zip: a file, open for writing, received when it is closed"
    for _ in range(2):  # appended to in pauses: closed between them, but not complete
        assert "a.zip: a file, received when it has not changed for 2 s (" in lines()[1]
        os.utime(inbox / "a.zip", (2, 2))
        assert lines()[1] == "In the inbox: a.zip: a file, not open for writing, the next run receives it"
        with (inbox / "a.zip").open("a") as file:
            file.write("more")
    os.utime(inbox / "a.zip", (2, 2))
    found: dict[str, Any] = json.loads(CliRunner().invoke(app, ["status", "--json"]).stdout)
    assert [(each["name"], each["quiet_sec"]) for each in found["settling"]] == [
        (folder.name, 30),
        ("a.zip", None),
    ]
    for n in range(10):
        (inbox / f"{n}.zip").touch()
    assert lines()[-1] == "and 4 more in the inbox"
    for n in range(1000):
        (inbox / f"{n}.zip").touch()
    assert lines() == ["1,002 entries in the inbox"]


def test_entries_that_are_ignored_because_of_their_names_are_named(installation: Settings) -> None:
    inbox = installation.inbox
    inbox.mkdir()
    for name in ("b.zip.part", ".a.json", ".DS_Store", ".tdp-kept-1-1-c.zip", ".tdp-0123"):
        (inbox / name).touch()
    (inbox / "Chat.crdownload").mkdir()
    (inbox / "given up.tmp").touch()
    os.utime(inbox / "given up.tmp", (1, 1))  # `tdp files --left` names it
    page = CliRunner().invoke(app, ["status"], env={"COLUMNS": "300"}).stdout
    written = "its name says that it is still being written; it is received under its final name"
    assert [line.strip() for line in page.splitlines() if "inbox" in line] == [
        "In the inbox: .a.json: hidden, so it is not received: rename it without the dot",
        f"In the inbox: Chat.crdownload: {written}",
        f"In the inbox: b.zip.part: {written}",
        "In the inbox: .tdp-kept-…: 1 received original, removed an hour after that, or received again if"
        " changed by then",
    ]
