"""No command passes control characters of names and texts to the terminal; files and JSON keep them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from chat_tables import run_tdp as run
from converted import Export, store, write
from known_times import add_batch

#: Clears the screen, writes to the clipboard, sets the title, changes colours, and shows the end first.
CLEAR, CLIPBOARD, TITLE, CSI, OVERRIDE = (
    "\x1b[2J",
    "\x1b]52;c;ZXZpbA==\x07",
    "\x1b]0;x\x07",
    "\x9b31m",
    "\u202e",
)
#: Begins a new line, and what looks like one.
BREAKS = "\n\r\x0b\x0c\x85\u2028\u2029COMPLETED"
NAME, SENDER = f"Evil{CLEAR} chat{BREAKS}", f"Mal{CLIPBOARD}lory{BREAKS}"
TEXT = f"evilword {TITLE}{CSI} {OVERRIDE}gnp.exe"
CONTROLS = re.compile(r"[^\n\t\x20-\x7e\xa0-\u2027\u202f-\u2065\u206a-\U0010ffff]")


@pytest.fixture
def filled(database_url: str, tmp_path: Path) -> str:
    """URL of a database with two chats and a file of such names."""
    for number in (1, 2):
        messages = [(1, number, TEXT), (2, 3, "other")]
        chat = Export(number, f"channel{number}", f"{NAME} {number}", messages, sender=("user1", SENDER))
        store(database_url, write(tmp_path / str(number), chat))
    with psycopg.connect(database_url) as opened:
        add_batch(opened, "batch_000001", ["QUARANTINED"])
        opened.execute("UPDATE source_files SET name = %s", [f"{NAME}.zip"])
        opened.execute("UPDATE batch_files SET error = %s, source_id = 1", [TEXT])
        opened.execute(
            "INSERT INTO left_files (folder, name, sighting, reason, is_error) VALUES ('', %s, '', %s, true)",
            [NAME, TEXT],
        )
        opened.execute("UPDATE batch_processing SET error_message = %s", [TEXT])
    return database_url


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["search", "evilword"], "Mal\u241b]52"),
        (["chat", "channel1"], "Evil\u241b[2J chat\u240a"),
        (["stats"], "Mal\u241b]52"),
        (["files"], "Evil\u241b[2J chat\u240a"),
        (["show", "1"], "Evil\u241b[2J chat\u240a"),
        (["files", "--left"], "Evil\u241b[2J chat\u240a"),
        (["batches"], "evilword"),
    ],
)
def test_a_page_shows_control_characters_as_visible_ones(filled: str, command: list[str], shown: str) -> None:
    done = run(filled, *command)
    assert done.exit_code == 0, done.output or done.exception
    assert shown in done.output
    assert CONTROLS.findall(done.output) == []
    assert re.search("^COMPLETED", done.output, re.MULTILINE) is None


def test_an_error_shows_control_characters_as_visible_ones(filled: str, tmp_path: Path) -> None:
    env = os.environ | {"TDP_DATABASE_URL": filled, "TDP_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "flows.cli", "chat", "Evil"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("Evil\u241b[2J chat")) == (1, 2)
    assert CONTROLS.findall(done.stderr) == []
    assert len(done.stderr.splitlines()) == 3


def test_json_and_files_keep_control_characters(filled: str) -> None:
    found = run(filled, "chat", "channel1", "--json").stdout
    assert CONTROLS.findall(found) == []
    assert json.loads(found)["name"] == f"{NAME} 1"
    (hit, _) = json.loads(run(filled, "search", "evilword", "--json").stdout)["hits"]
    assert OVERRIDE in hit["snippet"]
    lines = run(filled, "export", "-", "--format", "jsonl").stdout.split("\n")
    assert TEXT in {json.loads(line)["text"] for line in lines if line}
