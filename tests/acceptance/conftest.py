"""The product as users run it: `tdp up` in one terminal, commands in another, and the Prefect UI."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import psycopg
import pytest
from psycopg.rows import dict_row

from flows import services
from flows.samples import Expected, write_samples
from flows.settings import Settings

BIN = Path(sys.executable).parent
OBSTRUCTED = Path(__file__).parents[1] / "programs" / "obstructed.sh"
STAGES = ("extract", "convert", "store")
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
T = TypeVar("T")


class Installed:
    """One home, its `tdp up` process, and the commands and requests that users send to it."""

    def __init__(self, home: Path, flags: Path) -> None:
        self.settings = Settings(
            home=home, server_port=services.free_port(), monitor_port=services.free_port()
        )
        self.url = services.server_url(self.settings)
        self.http = httpx.Client(timeout=30)  # to make one takes 20 ms of CPU
        self.flags = flags
        self.terminal: subprocess.Popen[bytes] | None = None
        self.environment = os.environ | {
            "TDP_HOME": str(home),
            "TDP_SERVER_PORT": str(self.settings.server_port),
            "TDP_MONITOR_PORT": str(self.settings.monitor_port),
            "TDP_SETTLE_SECONDS": "0",
            "COLUMNS": "80",
        }

    def start(self) -> None:
        """Run `tdp up` and wait until it reports that it is ready."""
        screen = self.flags / "up.log"
        with screen.open("wb") as out:
            self.terminal = subprocess.Popen(
                [BIN / "tdp", "up"], env=self.environment, stdout=out, stderr=out, start_new_session=True
            )
        self.until(lambda: "Ready." in screen.read_text() or self.terminal_ended(), 180)
        assert not self.terminal_ended(), screen.read_text()
        self.environment |= json.loads(self.type("tdp", "env", "--json"))
        self._pause_schedules()

    def terminal_ended(self) -> bool:
        return self.terminal is None or self.terminal.poll() is not None

    def stop(self, how: signal.Signals) -> int:
        """Signal the terminal's process group, as Ctrl-C does, and return the exit status."""
        assert self.terminal is not None
        os.killpg(self.terminal.pid, how)
        return self.terminal.wait(60)

    def type(self, *command: str | Path, status: int = 0) -> str:
        """Run a command to its end in the environment of `tdp env`; return what it printed."""
        done = subprocess.run(
            [BIN / command[0], *command[1:]],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    def run_deployment(self, name: str, **parameters: object) -> str:
        """Create a flow run as the UI does; return its id."""
        deployment = self.get(f"deployments/name/{name}")
        path = f"deployments/{deployment['id']}/create_flow_run"
        run: dict[str, Any] = self.send("POST", path, parameters=parameters, state={"type": "SCHEDULED"})
        return str(run["id"])

    def ended(self, flow_run_id: str, runs: int = 1) -> dict[str, Any]:
        """Return the flow run once it has ended for the ``runs``-th time."""

        def look() -> dict[str, Any] | None:
            run: dict[str, Any] = self.get(f"flow_runs/{flow_run_id}")
            return run if run["state_type"] in FINAL and run["run_count"] == runs else None

        run = self.until(look)
        assert run
        return run

    def drop(self, files: int, seed: int) -> Expected:
        """Write sample exports into the inbox."""
        return write_samples(self.settings.inbox, files=files, messages=20, seed=seed)

    def next_batches(self, count: int) -> list[str]:
        """Return the ids that the next batches will have."""
        (row,) = self.query("SELECT last_value + is_called::int AS next FROM batch_number")
        return [f"batch_{row['next'] + offset:06}" for offset in range(count)]

    def query(self, statement: str, *values: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.settings.database, row_factory=dict_row, autocommit=True) as connection:
            return connection.execute(statement.encode(), values).fetchall()

    def statuses(self, *batch_ids: str) -> list[str]:
        """Return the statuses of these batches in the ledger."""
        status = {row["batch_id"]: row["status"] for row in self.query("SELECT * FROM batch_processing")}
        return [status[batch_id] for batch_id in batch_ids]

    def stage_runs(self, batch_id: str) -> list[tuple[str, int, str]]:
        """Return stage, attempt and outcome of every stage run of the batch, in order."""
        rows = self.query("SELECT * FROM stage_runs WHERE batch_id = %s ORDER BY stage_run_id", batch_id)
        return [(row["stage"], row["attempt"], row["outcome"]) for row in rows]

    def at_work(self) -> dict[str, Any]:
        """Wait for an active stage run and return its row."""
        at_work = "SELECT * FROM stage_runs WHERE started_at IS NOT NULL AND finished_at IS NULL"
        return self.until(lambda: self.query(at_work))[0]

    def obstruct(self, stage: str) -> None:
        """Let the flags in ``self.flags`` control ``stage``: see obstructed.sh."""
        built_in = [sys.executable, "-I", "-m", f"flows.stages.{stage}", "{input}", "{output}"]
        command = ["sh", str(OBSTRUCTED), f"{self.flags}/{{batch_id}}", *built_in]
        self.edit_block("tdp-stage-command", stage, command=command)

    def flag(self, batch_id: str, kind: str) -> Path:
        """Set a flag: hold, fail or once.<anything>; see obstructed.sh."""
        flag = self.flags / f"{batch_id}.{kind}"
        flag.touch()
        return flag

    def clear(self) -> None:
        """Remove every flag, and restore every block."""
        for flag in self.flags.glob("batch_*"):
            flag.unlink(missing_ok=True)
        for stage in STAGES:
            self.edit_block("tdp-stage-command", stage, command=[])
        self.edit_block("tdp-pipeline", "tdp", task_retries=3)

    def edit_block(self, block_type: str, name: str, **values: object) -> None:
        """Edit a block document as its form in the UI does."""
        document = self.get(f"block_types/slug/{block_type}/block_documents/name/{name}")
        self.send("PATCH", f"block_documents/{document['id']}", data=values, merge_existing_data=True)

    def get(self, path: str) -> Any:
        return self.send("GET", path)

    def filter(self, what: str, **filters: object) -> list[dict[str, Any]]:
        """Return the flow runs, task runs or logs that the API finds."""
        found: list[dict[str, Any]] = self.send("POST", f"{what}/filter", **filters)
        return found

    def send(self, method: str, path: str, **body: object) -> Any:
        answer = self.http.request(method, f"{self.url}/api/{path}", json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def task_run(self, name: str) -> dict[str, Any] | None:
        """Return the newest task run of that name; None if there is none yet."""
        found = self.filter("task_runs", task_runs={"name": {"any_": [name]}}, sort="ID_DESC", limit=1)
        return found[0] if found else None

    def has_logged(self, task_run_id: str, text: str) -> bool:
        """Return whether the server's log of the task run contains the text."""
        logs = self.filter("logs", logs={"task_run_id": {"any_": [task_run_id]}})
        return any(text in log["message"] for log in logs)

    def open_runs(self) -> list[str]:
        """Return the flow runs of deployments that have not ended."""
        wanted = {"deployment_id": {"is_null_": False}, "state": {"type": {"not_any_": FINAL}}}
        return [run["name"] for run in self.filter("flow_runs", flow_runs=wanted)]

    def processes(self) -> list[psutil.Process]:
        """Return all processes that use this home."""
        found = []
        home = str(self.settings.root)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                command = " ".join(process.cmdline())
                if home in command or process.environ().get("TDP_HOME") == home:
                    found.append(process)
        return found

    def works(self) -> list[psutil.Process]:
        """Return the programs of obstructed stages, without forked copies that are about to exec `sleep`."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                obstructed = str(OBSTRUCTED) in process.cmdline()[1:2]
                if obstructed and os.getpgid(process.pid) == process.pid:
                    found.append(process)
        return found

    def until(self, condition: Callable[[], T], seconds: float = 180.0) -> T:
        """Return the first true value of ``condition``; other processes send no event, so it is polled."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"not true within {seconds:g} s\n{self._logs()}"
            time.sleep(0.2)  # each look is a request, and takes 13 ms of the server's CPU
        return value

    def _pause_schedules(self) -> None:
        """Pause all schedules, so that only the test starts runs."""
        for deployment in self.filter("deployments"):
            for schedule in deployment["schedules"]:
                path = f"deployments/{deployment['id']}/schedules/{schedule['id']}"
                self.send("PATCH", path, active=False)
        self.until(lambda: not self.open_runs())

    def _logs(self) -> str:
        names = [self.flags / "up.log", self.settings.logs / "worker.log"]
        return "\n".join(log.read_text(errors="replace")[-4000:] for log in names if log.exists())


@pytest.fixture(scope="session")
def installed(open_folder: Path) -> Iterator[Installed]:
    flags = open_folder / "flags"
    flags.mkdir()
    installed = Installed(open_folder / "installed", flags)
    yield installed
    if not installed.terminal_ended():
        installed.stop(signal.SIGTERM)
    installed.http.close()
    services.remove(installed.settings)


@pytest.fixture
def up(installed: Installed) -> Iterator[Installed]:
    """The running installation, without batches to process, and with the built-in stages."""
    if installed.terminal_ended():
        installed.start()
    yield installed
    if not installed.terminal_ended():
        installed.clear()
        installed.until(lambda: not installed.open_runs())
