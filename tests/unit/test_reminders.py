"""A start that takes long says what it waits for."""

from __future__ import annotations

import re
from pathlib import Path
from queue import Queue

from flows.services.reminders import reminders


def test_a_step_is_reported_again_while_it_lasts(tmp_path: Path) -> None:
    log = tmp_path / "postgres.log"
    log.write_text("LOG:  starting\nLOG:  redo in progress\n\n")
    lines: Queue[str] = Queue()

    def until(begin: str) -> str:
        while not (line := lines.get(timeout=60)).startswith(begin):
            pass
        return line

    with reminders(lines.put, every=0.01) as step:
        step("Starting PostgreSQL", log)
        assert until("Starting PostgreSQL") == "Starting PostgreSQL"
        said = until("Starting PostgreSQL: ")
        assert re.fullmatch(rf"Starting PostgreSQL: \d+ s so far; {log}: LOG:  redo in progress", said)
        step("Starting the server", tmp_path / "none.log")
        assert re.fullmatch(r"Starting the server: \d+ s so far", until("Starting the server: "))
        step("Checking")
        assert re.fullmatch(r"Checking: \d+ s so far", until("Checking: "))
