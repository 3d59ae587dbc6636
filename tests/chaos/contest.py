"""Two processes that compete for the gate of extract, and the times that the work of each recorded."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from ledger_rows import query

from flows.settings import Settings

PROGRAMS = Path(__file__).parents[1] / "programs"


class Contest:
    """Two processes, and the times that their work recorded."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.beats = folder / "beats"
        self.processes: list[subprocess.Popen[bytes]] = []
        rows = self.query("INSERT INTO batch_processing (file_count) VALUES (0), (0) RETURNING batch_id")
        self.batches = [row["batch_id"] for row in rows]

    def start(self, *options: str, seconds: float = 600, prefix: tuple[str, ...] = ()) -> int:
        """Start a process that extracts the next batch; return the id of its work once that runs."""
        batch_id = self.batches[len(self.processes)]
        heart = [sys.executable, str(PROGRAMS / "heart.py"), str(self.beats), str(seconds), *options]
        contender = [
            sys.executable,
            str(PROGRAMS / "contender.py"),
            "gated",
            "extract",
            batch_id,
            "--",
            *heart,
        ]
        log = self.beats.with_name(f"{batch_id}.log").open("wb")
        with log:
            self.processes.append(subprocess.Popen([*prefix, *contender], stdout=log, stderr=log))
        if len(self.processes) == 1:
            self.until(self.beats.exists)
        return self.processes[-1].pid

    def query(self, statement: str, *values: object) -> list[dict[str, Any]]:
        return query(self.settings, statement, *values)

    def until(self, condition: Callable[[], Any], seconds: float = 60) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            logs = "\n".join(path.read_text() for path in self.beats.parent.glob("*.log"))
            assert time.monotonic() < deadline, f"it did not happen in time\n{logs}"
            time.sleep(0.02)
        return value

    def lose_sessions(self) -> None:
        """End every session of the first process, as a restart of PostgreSQL does."""
        self.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            f"tdp extract {self.batches[0]}",
        )

    def supervisor(self) -> psutil.Process:
        (found,) = psutil.Process(self.processes[0].pid).children()
        return found

    def tree(self) -> list[psutil.Process]:
        flow = psutil.Process(self.processes[0].pid)
        return [flow, *flow.children(recursive=True)]

    def second_began(self) -> bool:
        """Whether the work of the second process has begun."""
        row = self.query(
            "SELECT 1 FROM stage_runs WHERE batch_id = %s AND started_at IS NOT NULL", self.batches[1]
        )
        return bool(row)

    def assert_no_overlap(self) -> None:
        """Wait for the second process; nothing of the first ran once it had begun, and the ledger agrees."""
        self.until(lambda: self.processes[1].poll() is not None)
        beats: dict[int, list[int]] = {}
        for line in self.beats.read_text().splitlines():
            pid, moment = map(int, line.split())
            beats.setdefault(pid, []).append(moment)
        last = list(beats)[-1]
        before = [moment for pid, moments in beats.items() if pid != last for moment in moments]
        assert max(before) < min(beats[last]), f"{(max(before) - min(beats[last])) / 1e6:.1f} ms of overlap"
        assert self.processes[1].returncode == 0
        assert self.query("SELECT * FROM stage_overlaps") == []
        outcomes = self.query("SELECT outcome FROM stage_runs ORDER BY stage_run_id")
        assert outcomes[-1]["outcome"] == "COMPLETED"
