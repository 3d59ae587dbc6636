"""A plant for tests of faults: real services, flow processes, sample files, and the final checks."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
from block_documents import write_database, write_pipeline, write_stage
from plant_services import EXCLUSIVE, STAGES, PlantServices, kill
from psycopg.rows import dict_row

from flows import services
from flows.samples import Expected, write_samples
from flows.settings import Settings
from flows.stages.runner.contract import entry_name

WITNESS = Path(__file__).parents[1] / "programs" / "witness.py"
STARTUP = "from flows.cli.startup import collect_seldom; collect_seldom()"
FLOW = (
    "import asyncio; from flows.process_inbox import process_inbox; asyncio.run(process_inbox(batch_size=2))"
)
LOCKS = """
SELECT * FROM pg_locks WHERE locktype = 'advisory'
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
WAIT_WHILE_HELD = """
CREATE FUNCTION wait_while_held() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WHILE EXISTS (SELECT FROM held) LOOP PERFORM pg_sleep(0.02); END LOOP;
    RETURN NEW;
END $$
"""
#: All rows but for the ids of their source files, which follow the order of arrival.
ROWS = """
SELECT (SELECT md5(string_agg((to_jsonb(m) - 'source_id')::text, '' ORDER BY chat_key, message_id))
        FROM messages m) AS messages,
       (SELECT md5(string_agg((to_jsonb(c) - 'source_id' - 'revision')::text, '' ORDER BY chat_key))
        FROM chats c) AS chats
"""


class Plant(PlantServices):
    """Real services, real flow processes, and the checks after each fault."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        super().__init__(settings, folder)
        self.flows: list[subprocess.Popen[bytes]] = []
        self._leases: set[Path] = set()
        self._undisturbed: dict[int, list[dict[str, Any]]] = {}
        self.expected: Expected

    def renew(self, folder: Path) -> None:
        """Use a new ledger and a new home below ``folder``, without flows; restart what is not running."""
        super().renew(folder)
        self.flows = []
        self._leases = self.leases()

    def stop(self) -> None:
        self.end_flows()
        super().stop()

    def end_flows(self) -> None:
        """End all processes that a test has started, except the services."""
        self._others.close()
        for flow in self.flows:
            if flow.poll() is None:
                kill([psutil.Process(flow.pid)])
            flow.wait()

    def configure(self, *, files: int = 6, **seconds: float) -> None:
        """Run each stage behind the witness, with its seconds of delay; write the sample files."""
        argv = {}
        for stage in STAGES:
            mark = self.folder / (stage if stage in EXCLUSIVE else "{batch_id}")
            argv[stage] = [sys.executable, str(WITNESS), str(mark), str(seconds.get(stage, 0)), stage]
            argv[stage] += ["{input}", "{output}"]
        self.configure_stages(argv)
        self.expected = write_samples(self.settings.inbox, files=files, messages=30, seed=3, broken=1)

    def configure_stages(self, argv: Mapping[str, Sequence[str]], **config: Any) -> None:
        """Let stages run these programs; reset limits and pipeline settings, except for ``config``."""
        os.environ.update(services.environment(self.settings))
        if {limit["name"] for limit in self.api("POST", "v2/concurrency_limits/filter")} != {*STAGES}:
            from deployments.apply import apply_basics  # late, as is all that imports Prefect

            with self.client_settings():
                asyncio.run(apply_basics(self.settings))
        write_database(self.settings.database)
        write_pipeline(**config)
        for stage in STAGES:
            write_stage(stage, *argv.get(stage, []))
            limit = {"active": True, "active_slots": 0, "limit": 1 if stage in EXCLUSIVE else 5}
            self.api("PATCH", f"v2/concurrency_limits/{stage}", **limit)

    @contextmanager
    def held(self, event: str, when: str = "true") -> Iterator[None]:
        """Block changes to rows of a table until the block ends.

        ``event`` is that of a trigger (``BEFORE INSERT ON stage_runs``) or ``COMMIT OF messages``.
        """
        self.query("CREATE TABLE held AS SELECT")
        self.query(WAIT_WHILE_HELD)
        trigger = f"CREATE TRIGGER wait_while_held {event}"
        if event.startswith("COMMIT OF "):
            table = event.removeprefix("COMMIT OF ")
            trigger = (
                f"CREATE CONSTRAINT TRIGGER wait_while_held AFTER INSERT ON {table}"
                " DEFERRABLE INITIALLY DEFERRED"
            )
        self.query(f"{trigger} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION wait_while_held()")
        try:
            yield
        finally:
            self.until(lambda: self.query("DELETE FROM held RETURNING 1"))

    def is_held(self) -> bool:
        """Return whether a session is blocked by :meth:`held`."""
        return bool(self.query("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))

    def start_flow(self, code: str = FLOW, **environment: str) -> subprocess.Popen[bytes]:
        """Start ``code`` as a process, by default a run of process_inbox."""
        return self.start_program([sys.executable, "-c", f"{STARTUP}\n{code}"], **environment)

    def start_program(self, argv: Sequence[str], **environment: str) -> subprocess.Popen[bytes]:
        """Start a program that is a flow process, or replaces itself by one."""
        log = (self.folder / f"flow{len(self.flows)}.log").open("wb")
        env = {**os.environ, **services.environment(self.settings), **environment}
        with log:
            flow = subprocess.Popen(argv, env=env, stdout=log, stderr=log, start_new_session=True)
        self.flows.append(flow)
        return flow

    def until(self, condition: Callable[[], Any], seconds: float = 60) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if value := condition():
                    return value
            except psycopg.OperationalError:
                pass  # PostgreSQL is being restarted
            assert time.monotonic() < deadline, f"not true within {seconds:g} s\n{self.logs()}"
            time.sleep(0.05)

    def in_stage(self, stage: str, after: int = 0) -> dict[str, Any]:
        """Wait for an active run of ``stage`` with an id above ``after``; return its row."""
        statement = (
            "SELECT * FROM stage_runs WHERE stage = %s AND stage_run_id > %s"
            " AND started_at IS NOT NULL AND finished_at IS NULL ORDER BY stage_run_id"
        )
        run: dict[str, Any] = self.until(lambda: self.query(statement, stage, after))[0]
        return run

    def work(self, flow: subprocess.Popen[bytes] | None, stage: str) -> psutil.Process:
        """Wait for the process of ``stage`` in this flow, or in any if it is None; return it."""

        def find() -> psutil.Process | None:
            family = psutil.Process(flow.pid).children(recursive=True) if flow else psutil.process_iter()
            for process in family:
                try:
                    arguments = process.cmdline()
                except psutil.Error:
                    continue
                if str(WITNESS) in arguments and stage in arguments and self._uses_this_home(arguments):
                    return process
            return None

        found: psutil.Process = self.until(find)
        return found

    def wait_until_done(self, seconds: float = 150) -> None:
        """Wait until every batch is completed by worker and recovery alone, as under `tdp up`.

        Flows that are still running are awaited first, because recovery does not claim their batches.
        """
        for flow in self.flows:
            flow.wait(seconds)
        if self.flows and self.is_done():
            return
        self.start_worker()
        self.start_recovery()
        self.until(self.is_done, seconds)

    def is_done(self) -> bool:
        """Return whether there are batches and all of them are completed."""
        statuses = self.query("SELECT DISTINCT status FROM batch_processing")
        return statuses == [{"status": "COMPLETED"}]

    def finish(self) -> None:
        """Start runs, as the schedule would, until every batch is completed."""
        for _ in range(3):
            flow = self.start_flow()
            flow.wait(120)
            if not self.query("SELECT 1 FROM batch_processing WHERE status <> 'COMPLETED'"):
                return
        left = self.query("SELECT * FROM batch_processing")
        raise AssertionError(f"unfinished batches: {left}\n{self.logs()}")

    def logs(self) -> str:
        logs = [*sorted(self.folder.glob("flow*.log")), *sorted(self.settings.logs.glob("*.log"))]
        return "\n".join(f"== {log.name}\n{log.read_text(errors='replace')[-4000:]}" for log in logs)

    def assert_nothing_lost_nothing_twice(self) -> None:
        """Check that ledger and rows equal those of an undisturbed run, and that no two runs overlapped."""
        files = self.query("SELECT s.name, f.* FROM source_files s LEFT JOIN batch_files f USING (source_id)")
        outcomes = {"ok": {"STORED"}, "partial": {"PARTIAL"}, "quarantined": {"QUARANTINED"}}
        assert len(files) == self.expected.files
        for file in files:
            expected = self.expected.by_file[file["name"]]
            assert file["status"] in outcomes[expected.outcome], file
            assert bool(file["error"]) == (expected.outcome != "ok"), file
        counts = self.query(
            "SELECT (SELECT count(*) FROM messages) AS messages, (SELECT count(*) FROM chats) AS chats"
        )
        assert counts == [{"messages": self.expected.messages, "chats": self.expected.chats}]
        assert self.query(ROWS) == self._rows_of_an_undisturbed_run()
        assert self.query("SELECT * FROM stage_overlaps") == []
        assert list(self.folder.glob("*.crashed")) == []

    def _rows_of_an_undisturbed_run(self) -> list[dict[str, Any]]:
        """Return the rows that the built-in stages alone store for the sample files, in a separate ledger."""
        files = self.expected.files
        if files not in self._undisturbed:
            url, work = self.new_ledger(), self.folder / "undisturbed"
            write_samples(work / "inbox", files=files - 1, messages=30, seed=3, broken=1)
            before = work / "input"
            before.mkdir()
            for number, path in enumerate(sorted((work / "inbox").iterdir())):
                path.rename(before / entry_name(number, path.name))
            env = {**os.environ, "TDP_DATABASE_URL": url}
            for stage in STAGES:
                command = [sys.executable, "-I", "-m", f"flows.stages.{stage}", before, work / stage]
                subprocess.run(command, env=env, check=True, capture_output=True)
                before = work / stage
            with psycopg.connect(url, row_factory=dict_row) as connection:
                self._undisturbed[files] = connection.execute(ROWS).fetchall()
        return self._undisturbed[files]

    def assert_nothing_left_behind(self, lost_leases: int = 0) -> None:
        """Check that no run has left a lock, slot, lease, process or temporary directory behind.

        Up to ``lost_leases`` leases may remain until they expire: those that no process knows, because the
        server was down or its response was lost.
        """
        assert self.query("SELECT * FROM stage_runs WHERE finished_at IS NULL") == []
        for flow in self.flows:  # a batch is completed a moment before its flow ends
            flow.wait(60)
        self.until(lambda: not self.query(LOCKS), 60)
        if set(self.active_slots().values()) != {0}:  # set by hand, or granted in a lost response
            self.start_recovery()
            self.until(lambda: set(self.active_slots().values()) == {0}, 60)
        self._others.close()
        self.until(lambda: not self.processes(), 10)
        assert list(self.settings.work.rglob(".*.partial")) == []
        self.until(lambda: len(self.leases() - self._leases) <= lost_leases, 20)

    def processes(self) -> list[list[str]]:
        """Return the command lines of all processes that use this home, except the services."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            arguments = process.info["cmdline"] or []
            if self._uses_this_home(arguments):
                found.append(arguments)
        return found

    def _uses_this_home(self, arguments: list[str]) -> bool:
        return str(self.settings.work) in " ".join(arguments)
