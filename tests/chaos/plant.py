"""A plant for tests of faults: real services, flow processes, sample files, and what must be true."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg.rows import dict_row

from flows import services
from flows.ledger import migrate
from flows.samples import Expected, write_samples
from flows.settings import Settings

WITNESS = Path(__file__).parents[1] / "programs" / "witness.py"
FLOW = (
    "import asyncio; from flows.process_inbox import process_inbox; asyncio.run(process_inbox(batch_size=2))"
)
LOCKS = """
SELECT * FROM pg_locks WHERE locktype = 'advisory'
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
EXCLUSIVE = ("extract", "convert")


def kill(processes: list[psutil.Process]) -> None:
    """Kill processes and all their children, and wait until they are gone."""
    doomed = list(processes)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            doomed += process.children(recursive=True)
    for process in doomed:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(doomed, 10)


class Plant:
    """Real services, real flow processes and what must be true of them in the end."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.flows: list[subprocess.Popen[bytes]] = []
        self._services = ExitStack()
        self._server = ExitStack()
        self.expected: Expected

    def start(self) -> None:
        self.start_postgres()
        migrate(self.settings.database)
        self.start_server()

    def start_postgres(self) -> None:
        child = self._services.enter_context(services.postgres(self.settings))
        assert child is not None
        self.postgres = child.process

    def start_server(self) -> None:
        self.server = self._server.enter_context(services.prefect_server(self.settings)).process

    def kill_server(self) -> None:
        kill([self.server])
        self._server.close()

    def restart_postgres(self, how: signal.Signals) -> None:
        """Stop PostgreSQL by SIGINT (fast) or SIGQUIT (immediate), and start it again."""
        self.postgres.send_signal(how)
        self.postgres.wait(30)
        self.start_postgres()

    def stop(self) -> None:
        for flow in self.flows:
            if flow.poll() is None:
                flow.kill()
            flow.wait()
        self._server.close()
        self._services.close()

    def query(self, statement: str, *values: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.settings.database, row_factory=dict_row, autocommit=True) as connection:
            return connection.execute(statement.encode(), values).fetchall()

    def configure(self, **seconds: float) -> None:
        """Let each stage be watched, and take its seconds; write the sample files."""
        os.environ.update(services.environment(self.settings))
        from prefect.settings import temporary_settings

        from blocks import PIPELINE, PipelineConfig, StageCommand
        from deployments.apply import apply_basics

        async def save() -> None:
            await apply_basics(self.settings)
            await PipelineConfig(settle_seconds=0).save(PIPELINE, overwrite=True)
            for stage in ("extract", "convert", "store"):
                mark = self.folder / (stage if stage in EXCLUSIVE else "{batch_id}")
                argv = [sys.executable, str(WITNESS), str(mark), str(seconds.get(stage, 0)), stage]
                await StageCommand(command=[*argv, "{input}", "{output}"]).save(stage, overwrite=True)

        with temporary_settings({"api.url": os.environ["PREFECT_API_URL"]}):
            asyncio.run(save())
        self.expected = write_samples(self.settings.inbox, files=6, messages=30, seed=3, broken=1)

    def start_flow(self) -> subprocess.Popen[bytes]:
        log = (self.folder / f"flow{len(self.flows)}.log").open("wb")
        environment = {**os.environ, **services.environment(self.settings)}
        with log:
            flow = subprocess.Popen(
                [sys.executable, "-c", FLOW], env=environment, stdout=log, stderr=log, start_new_session=True
            )
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
            assert time.monotonic() < deadline, f"it did not happen in time\n{self.logs()}"
            time.sleep(0.02)

    def in_stage(self, stage: str) -> dict[str, Any]:
        """Return the first run of ``stage`` that is at work, waiting for one."""
        statement = (
            "SELECT * FROM stage_runs WHERE stage = %s AND started_at IS NOT NULL AND finished_at IS NULL"
        )
        run: dict[str, Any] = self.until(lambda: self.query(statement, stage))[0]
        return run

    def work(self, flow: subprocess.Popen[bytes], stage: str) -> psutil.Process:
        """Return the process that works on ``stage``, waiting for it."""

        def find() -> psutil.Process | None:
            for process in psutil.Process(flow.pid).children(recursive=True):
                try:
                    arguments = process.cmdline()
                except psutil.NoSuchProcess:
                    continue
                if str(WITNESS) in arguments and stage in arguments:
                    return process
            return None

        found: psutil.Process = self.until(find)
        return found

    def finish(self) -> None:
        """Start runs, as the schedule would, until nothing is left to do."""
        for _ in range(3):
            flow = self.start_flow()
            flow.wait(120)
            if not self.query("SELECT 1 FROM batch_processing WHERE status <> 'COMPLETED'"):
                return
        left = self.query("SELECT * FROM batch_processing")
        raise AssertionError(f"batches were left: {left}\n{self.logs()}")

    def logs(self) -> str:
        return "\n".join(
            log.read_text(errors="replace")[-3000:] for log in sorted(self.folder.glob("flow*.log"))
        )

    def assert_nothing_lost_nothing_twice(self) -> None:
        files = self.query(
            "SELECT s.name, f.status FROM source_files s LEFT JOIN batch_files f USING (source_id)"
        )
        outcomes = {"ok": {"STORED"}, "partial": {"PARTIAL"}, "quarantined": {"QUARANTINED"}}
        assert len(files) == self.expected.files
        for file in files:
            assert file["status"] in outcomes[self.expected.by_file[file["name"]].outcome], file
        counts = self.query(
            "SELECT (SELECT count(*) FROM messages) AS messages, (SELECT count(*) FROM chats) AS chats"
        )
        assert counts == [{"messages": self.expected.messages, "chats": self.expected.chats}]
        assert self.query("SELECT * FROM stage_overlaps") == []
        assert list(self.folder.glob("*.crashed")) == []

    def assert_nothing_left_behind(self) -> None:
        assert self.query("SELECT * FROM stage_runs WHERE finished_at IS NULL") == []
        assert self.query(LOCKS) == []
        home = str(self.settings.root)
        for process in psutil.process_iter(["cmdline"]):
            arguments = process.info["cmdline"] or []
            assert not (any("witness.py" in word for word in arguments) and home in " ".join(arguments)), (
                arguments
            )
        assert list(self.settings.work.rglob(".*.partial")) == []
        self.until(lambda: set(self.active_slots().values()) == {0}, 20)

    def active_slots(self) -> dict[str, int]:
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            limits = [
                client.read_global_concurrency_limit_by_name(stage)
                for stage in ("extract", "convert", "store")
            ]
        return {limit.name: limit.active_slots for limit in limits}
