"""A soak test: steady load, a random fault every 20 to 60 s, then checks that nothing was lost or done twice.

Runs a real `tdp up` in a home of its own. Sample archives, including broken ones and duplicates, are written
into its inbox, and every third is sent to its bot by one of two users, while faults occur. Then faults and
load stop, and the pipeline must process all batches without help. If it does not, or if an invariant is
broken, the exit status is 1, the offending rows are printed and the home is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import psutil
import psycopg
from bot_api import BotApi
from bot_api_server import bot_api
from plant import LOCKS
from rich.console import Console
from soak_faults import FAULTS, LIMITS, STAGES, USERS, Installed, NoTarget

from flows.ledger.locks import BOT, SERVER
from flows.monitor.usage import Sampler
from flows.samples import ExpectedFile, write_samples
from flows.stages.runner.process import SUPERVISOR

#: Seconds: between two faults; of load without faults at the end; for the pipeline to process the rest.
_PAUSE, _QUIET, _DRAIN = (20.0, 60.0), 60.0, 1200.0
#: One round of the load, and the ledger's status for each expected outcome.
_ROUND = {"files": 18, "broken": 6, "again": 3, "messages": 60}
_STATUS = {"ok": "STORED", "partial": "PARTIAL", "quarantined": "QUARANTINED"}
_IN_BATCHES = "SELECT sha256 FROM source_files JOIN batch_files USING (source_id)"
_UNFINISHED = (
    "SELECT * FROM batch_processing WHERE status <> 'COMPLETED'",
    "SELECT * FROM uploads WHERE state <> 'RECEIVED'",
    "SELECT * FROM announcements WHERE closed_at IS NULL",
)
_OPEN = ("PENDING", "RUNNING", "CANCELLING")
#: Errors that are effects of another fault.
_TRANSIENT = (NoTarget, psutil.Error, httpx.HTTPError, psycopg.OperationalError)

console = Console(width=110, highlight=False, markup=False, soft_wrap=True)


class Load(threading.Thread):
    """Drop sample archives at a steady rate, two of three in the inbox, and count the expected rows."""

    def __init__(self, installed: Installed, staging: Path, seed: int, per_minute: float) -> None:
        super().__init__(daemon=True)
        self._inbox, self._api, self._staging = installed.settings.inbox, installed.api, staging
        self._seed, self._pause = seed, 60 / per_minute
        self.sent: list[tuple[int, str]] = []
        self.stopping = threading.Event()
        self.by_sha256: dict[str, ExpectedFile] = {}
        self.dropped = 0
        self.rows = {"messages": 0, "chats": 0}

    def run(self) -> None:
        number = 0
        while not self.stopping.is_set():
            written = write_samples(self._staging, seed=self._seed + number, **_ROUND)
            for name, file in written.by_file.items():
                path = self._staging / name
                self.by_sha256.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), file)
                self._drop(path, f"{number:04d}-{name}")
                self.dropped += 1
                self.stopping.wait(self._pause)  # once stopping is set, the rest of the round follows at once
            self.rows["messages"] += written.messages
            self.rows["chats"] += written.chats
            number += 1

    def _drop(self, path: Path, name: str) -> None:
        if self.dropped % 3:
            path.rename(self._inbox / name)
            return
        user = USERS[len(self.sent) % len(USERS)]
        self._api.document(user, name, path.read_bytes())
        self.sent.append((user, name))
        path.unlink()


class Soak:
    """One soak test: faults as (kind, time), memory samples by service, and the broken invariants."""

    def __init__(self, folder: Path, api: BotApi, seed: int, per_minute: float) -> None:
        self.rng = random.Random(seed)
        self.installed = Installed(folder, api)
        self.load = Load(self.installed, folder / "staging", seed, per_minute)
        self.faults: list[tuple[str, datetime]] = []
        self.memory: list[dict[str, int]] = []
        self.broken: dict[str, Sequence[Any]] = {}
        self.began = datetime.now(UTC)

    def run(self, minutes: float) -> None:
        self.installed.start()
        self.installed.watch_stages(seconds=4)  # long enough for a fault to occur meanwhile
        self.began, ended = datetime.now(UTC), threading.Event()
        self.load.start()
        for every, what in ((60, self.progress), (30, self.sample), (20, self.start_run)):
            threading.Thread(target=_repeat, args=(every, what, ended), daemon=True).start()
        self.inject_faults_until(self.began + timedelta(minutes=minutes))
        self.say("no more faults; the load continues for a minute")
        time.sleep(_QUIET)
        self.load.stopping.set()
        self.load.join()
        self.say("no more load; waiting until the pipeline has processed all batches")
        self.drain()
        ended.set()
        self.check()
        self.report()
        self.installed.up.send_signal(signal.SIGINT)
        self.installed.up.wait(120)
        left = Sampler(self.installed.settings).sample().memory_bytes.keys() - {"other"}  # this program
        self.expect_none("processes after `tdp up` was stopped", left)

    def inject_faults_until(self, end: datetime) -> None:
        """Cause faults in random order, every kind equally often."""
        bag: list[str] = []
        while datetime.now(UTC) + (pause := timedelta(seconds=self.rng.uniform(*_PAUSE))) < end:
            time.sleep(pause.total_seconds())
            bag = bag or self.rng.sample(sorted(FAULTS), len(FAULTS))
            kind, began = bag.pop(), datetime.now(UTC)
            if self.installed.up.poll() is not None:
                raise RuntimeError(f"`tdp up` exited:\n{self.installed.screen.read_text()[-3000:]}")
            try:
                FAULTS[kind](self.installed, self.rng)
                self.faults.append((kind, began))
                self.say(kind)
            except _TRANSIENT as error:
                self.say(f"{kind}: skipped, {error!r}")

    def say(self, what: str) -> None:
        console.print(f"{(datetime.now(UTC) - self.began).total_seconds() / 60:6.1f} min  {what}")

    def progress(self) -> None:
        (row,) = self.installed.query(
            "SELECT (SELECT count(*) FROM batch_files WHERE status <> 'WAITING') AS files,"
            " (SELECT count(*) FROM messages) AS rows, count(*) FILTER (WHERE status = 'COMPLETED') AS done,"
            " count(*) AS batches FROM batch_processing"
        )
        memory = sum(self.memory[-1].values()) >> 20 if self.memory else 0
        self.say(
            f"{self.load.dropped} files in, {row['files']} done, {row['rows']} rows,"
            f" {row['done']} of {row['batches']} batches, {len(self.faults)} faults, {memory} MiB"
        )

    def sample(self) -> None:
        memory = Sampler(self.installed.settings).sample().memory_bytes
        memory["other"] -= psutil.Process().memory_full_info().pss  # this program itself
        self.memory.append(memory)

    def start_run(self) -> None:
        """Start a run while there is load, more often than the schedule, so that faults hit active stages."""
        if not self.load.stopping.is_set():
            self.installed.run_deployment("process-inbox/scheduled")

    def drain(self) -> None:
        def left() -> list[Any]:
            received = {row["sha256"] for row in self.installed.query(_IN_BATCHES)}
            missing = self.load.by_sha256.keys() - received
            unfinished = [row for statement in _UNFINISHED for row in self.installed.query(statement)]
            return [*missing, *unfinished, *self.installed.flow_runs(*_OPEN)]

        self.installed.tdp("resume", "--all")  # the batches of cancelled runs are held until then
        self.installed.until(lambda: not left(), _DRAIN)
        self.expect_none(f"unfinished after {_DRAIN:.0f} s", left())
        self.say("not all batches are completed" if self.broken else "all batches are completed")

    def check(self) -> None:
        """Record every invariant that does not hold."""
        installed, settings = self.installed, self.installed.settings
        maintained = installed.run_deployment("maintain/scheduled")
        installed.until(lambda: self.state(maintained) not in ("SCHEDULED", *_OPEN), 600)
        self.expect_none("maintenance", {self.state(maintained)} - {"COMPLETED"})
        verified = installed.tdp("verify")
        self.expect_none("tdp verify", [verified.stdout, verified.stderr] if verified.returncode else [])
        self.expect_none("overlaps in the ledger", installed.query("SELECT * FROM stage_overlaps"))
        second = [f"{mark.name}: {mark.read_text()}" for mark in installed.marks.glob("*.crashed")]
        self.expect_none("second copies observed by the programs", second)
        self.expect_none("files", self.wrong_files())
        self.expect_none("files that their sender was not informed about", self.unnamed_files())
        rows = {"expected": self.load.rows, "found": self.rows()}
        self.expect_none("rows", [rows] if rows["expected"] != rows["found"] else [])
        unfinished = installed.query("SELECT * FROM stage_runs WHERE finished_at IS NULL")
        self.expect_none("unfinished stage runs", unfinished)
        held = [lock for lock in installed.query(LOCKS) if lock["classid"] not in (BOT, SERVER)]
        self.expect_none("advisory locks", held)  # but those of services, which run
        limits = [installed.send("GET", f"{LIMITS}/{stage}") for stage in STAGES]
        self.expect_none("slots", [limit for limit in limits if limit["active_slots"]])
        self.expect_none("stage processes", installed.below("witness.py", "flows.stages.", str(SUPERVISOR)))
        partial = [path for root in (settings.work, settings.sources) for path in root.rglob(".*.partial")]
        self.expect_none("unfinished outputs", partial)

    def expect_none(self, name: str, offending: Sequence[Any] | set[Any]) -> None:
        if offending:
            self.broken[name] = list(offending)

    def state(self, run_id: str) -> str:
        return str(self.installed.send("GET", f"flow_runs/{run_id}")["state_type"])

    def rows(self) -> dict[str, int]:
        counts = "SELECT (SELECT count(*) FROM messages) AS messages, (SELECT count(*) FROM chats) AS chats"
        return self.installed.query(counts)[0]

    def wrong_files(self) -> list[Any]:
        found = self.installed.query(
            "SELECT s.sha256, s.name, f.batch_id, f.status, f.error FROM source_files s"
            " LEFT JOIN batch_files f USING (source_id)"
        )
        expected = {sha256: _STATUS[file.outcome] for sha256, file in self.load.by_sha256.items()}
        lost = expected.keys() - {row["sha256"] for row in found}
        (row,) = self.installed.query("SELECT count(*) FROM receipts WHERE duplicate")
        # At least: a duplicate whose run was killed before it was removed is recorded again.
        repeated = self.load.dropped - len(expected)
        unseen = [f"{row['count']} of {repeated} duplicates"] if row["count"] < repeated else []
        return [*lost, *unseen, *(row for row in found if row["status"] != expected.get(row["sha256"]))]

    def unnamed_files(self) -> list[tuple[int, str]]:
        """Return the files that no message to their sender names with an outcome."""
        said = {user: "\n".join(self.installed.api.texts_to(user)) for user in USERS}
        return [(user, name) for user, name in self.load.sent if f" {name}: " not in said[user]]

    def report(self) -> None:
        runs = self.installed.query("SELECT * FROM stage_runs WHERE outcome = 'COMPLETED'")

        def recovery(at: datetime) -> float:
            ends = [run["finished_at"] for run in runs if run["started_at"] > at]
            return (min(ends) - at).total_seconds() if ends else float("inf")

        end = self.faults[-1][1] if self.faults else self.began
        moments = [("(any moment)", at) for at in pd.date_range(self.began, end, freq="5s")]
        hits = [*self.faults, *(("(all faults)", at) for _, at in self.faults), *moments]
        times = pd.DataFrame([(kind, recovery(at)) for kind, at in hits], columns=["fault", "seconds"])
        spread = times.groupby("fault")["seconds"].describe(percentiles=[0.5, 0.95])
        memory = pd.DataFrame(self.memory).fillna(0) / 2**20
        memory["all"] = memory.sum(axis=1)
        quarter = max(len(memory) // 4, 1)
        parts = {"first quarter": memory[:quarter].median(), "last quarter": memory[-quarter:].median()}
        parts |= {"min": memory.min(), "median": memory.median(), "max": memory.max()}
        console.print("\nSeconds from each fault to the end of the next stage run that started after it:")
        console.print(spread[["count", "50%", "95%", "max"]].round(1).to_string())
        doors = f"{self.load.dropped}, of which {len(self.load.sent)} by the bot"
        console.print(f"\nFiles in: {doors}. Rows out: {self.rows()}")
        console.print(self.installed.tdp("status").stdout, self.installed.tdp("timings").stdout)
        console.print("Memory, PSS in MiB:", pd.DataFrame(parts).round().astype(int).to_string(), sep="\n")


def _repeat(every: float, what: Callable[[], None], ended: threading.Event) -> None:
    while not ended.wait(every):
        with suppress(*_TRANSIENT):
            what()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--files-per-minute", type=float, default=20)
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "TDP_", "BATCH_SIZE"))]:
        del os.environ[name]
    os.umask(0o077)
    folder = Path(tempfile.mkdtemp(prefix="tdp-soak-"))
    console.print(f"Seed {options.seed}, {options.minutes:g} minutes, in {folder}")
    with bot_api() as api:
        soak = Soak(folder, api, options.seed, options.files_per_minute)
        try:
            soak.run(options.minutes)
        except Exception:
            soak.broken["the soak itself"] = [traceback.format_exc()]
    for name, rows in soak.broken.items():
        console.print(f"\nBroken: {name}", *rows[:50], sep="\n")
    if soak.broken:
        console.print(
            f"The home is kept for inspection: {folder}; its `tdp up` is pid {soak.installed.up.pid}."
        )
        return 1
    shutil.rmtree(folder)
    console.print("Every invariant held.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
