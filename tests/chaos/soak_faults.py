"""What a soak is done to: an installation as its users have it, and the faults that befall it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import httpx
import psutil
import psycopg
from plant import WITNESS, kill
from psycopg.rows import dict_row

from flows import services
from flows.services import record
from flows.settings import Settings

TDP = Path(sys.executable).with_name("tdp")
STAGES = ("extract", "convert", "store")
AT_WORK = "SELECT * FROM stage_runs WHERE started_at IS NOT NULL AND finished_at IS NULL"
T = TypeVar("T")


class NothingToHit(Exception):
    """What the fault is for is not there at the moment."""


class Installed:
    """One home, its `tdp up`, and all that can be asked of it from outside."""

    up: subprocess.Popen[bytes]

    def __init__(self, folder: Path) -> None:
        ports = {"server_port": services.free_port(), "monitor_port": services.free_port()}
        self.settings = Settings(home=folder / "home", **ports)
        self.screen, self.marks = folder / "up.log", folder / "marks"
        self.marks.mkdir()
        settings = {"HOME": self.settings.root, **ports, "SETTLE_SECONDS": 0.5, "BATCH_SIZE": 5}
        variables = {f"TDP_{name.upper()}": str(value) for name, value in settings.items()}
        self.environment = os.environ | variables | {"COLUMNS": "110"}

    def start(self) -> None:
        """Type `tdp up` and wait until it says that it is ready."""
        with self.screen.open("ab") as out:
            seen, streams = out.tell(), {"stdout": out, "stderr": out}
            self.up = subprocess.Popen([TDP, "up"], env=self.environment, start_new_session=True, **streams)
        self.until(lambda: b"Ready." in self.screen.read_bytes()[seen:] or self.up.poll() is not None, 600)
        if self.up.poll() is not None:
            raise RuntimeError(f"`tdp up` did not come up:\n{self.screen.read_text()[-3000:]}")

    def tdp(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the installation to its end."""
        command = [TDP, *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)

    def watch_stages(self, seconds: float) -> None:
        """Put every stage behind the witness, with so many seconds of waiting before its work."""
        for stage in STAGES:
            mark = self.marks / ("{batch_id}" if stage == "store" else stage)
            command = [sys.executable, str(WITNESS), str(mark), str(seconds), stage, "{input}", "{output}"]
            path = f"block_types/slug/tdp-stage-command/block_documents/name/{stage}"
            path = f"block_documents/{self.send('GET', path)['id']}"
            self.send("PATCH", path, data={"command": command}, merge_existing_data=True)

    def run_deployment(self, name: str, **parameters: object) -> str:
        """Ask for a run as the UI does; return its id."""
        path = f"deployments/{self.send('GET', f'deployments/name/{name}')['id']}/create_flow_run"
        return str(self.send("POST", path, parameters=parameters, state={"type": "SCHEDULED"})["id"])

    def flow_runs(self, *states: str) -> list[dict[str, Any]]:
        """Return the runs of deployments in these states."""
        wanted = {"deployment_id": {"is_null_": False}, "state": {"type": {"any_": states}}}
        found: list[dict[str, Any]] = self.send("POST", "flow_runs/filter", flow_runs=wanted)
        return found

    def send(self, method: str, path: str, **body: object) -> Any:
        url = f"{services.server_url(self.settings)}/api/{path}"
        answer = httpx.request(method, url, json=body, timeout=30).raise_for_status()
        return answer.json() if answer.content else None

    def query(self, statement: str) -> list[dict[str, Any]]:
        with psycopg.connect(self.settings.database, row_factory=dict_row, connect_timeout=10) as ledger:
            return ledger.execute(statement.encode()).fetchall()

    def until(self, look: Callable[[], T], seconds: float) -> T:
        """Return what is true at last, or what it was when the time was over."""
        deadline = time.monotonic() + seconds
        while True:
            with suppress(psycopg.OperationalError, httpx.HTTPError):  # whatever is away comes back
                if (found := look()) or time.monotonic() > deadline:
                    return found
            time.sleep(0.1)

    def at_work(self) -> dict[str, Any]:
        """Return a stage run that is at work, waiting for one."""
        if not (found := self.until(lambda: self.query(AT_WORK), 90)):
            raise NothingToHit
        return found[0]

    def service(self, name: str) -> psutil.Process | None:
        return record.find(record.read(self.settings)["services"][name])

    def stage_processes(self, *words: str) -> list[psutil.Process]:
        """Return what runs below `tdp up` and has one of the words in its command."""
        below = psutil.Process(self.up.pid).children(recursive=True)
        return [process for process in below if any(word in _command(process) for word in words)]

    def processes(self) -> list[str]:
        """Return the commands of all that runs for this home."""
        home, commands = str(self.settings.root), map(_command, psutil.process_iter())
        return [command for command in commands if home in command]


def _command(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _signal(process: psutil.Process | None, how: signal.Signals) -> None:
    try:
        if process is None:
            raise NothingToHit
        process.send_signal(how)
    except psutil.NoSuchProcess:
        raise NothingToHit from None


def _kill_one(*words: str) -> Callable[[Installed, Random], None]:
    def fault(installed: Installed, rng: Random) -> None:
        installed.at_work()
        found = installed.stage_processes(*words)
        _signal(rng.choice(found) if found else None, signal.SIGKILL)

    return fault


def _end_service(name: str, how: signal.Signals = signal.SIGKILL) -> Callable[[Installed, Random], None]:
    return lambda installed, _: _signal(installed.service(name), how)


def _kill_flow(installed: Installed, _: Random) -> None:
    _signal(psutil.Process(installed.at_work()["pid"]), signal.SIGKILL)


def _stop_flow(installed: Installed, rng: Random) -> None:
    flow = psutil.Process(installed.at_work()["pid"])
    _signal(flow, signal.SIGSTOP)
    time.sleep(rng.uniform(10, 20))
    _signal(flow, signal.SIGCONT)


def _kill_up(installed: Installed, _: Random) -> None:
    installed.up.kill()
    installed.up.wait()
    installed.start()


def _power_cut(installed: Installed, _: Random) -> None:
    installed.at_work()
    kill([psutil.Process(installed.up.pid)])
    installed.up.wait()
    installed.start()


def _cancel(installed: Installed, rng: Random) -> None:
    installed.at_work()
    if not (running := installed.flow_runs("RUNNING")):
        raise NothingToHit
    cancelling = {"type": "CANCELLING", "name": "Cancelling"}
    installed.send("POST", f"flow_runs/{rng.choice(running)['id']}/set_state", state=cancelling)


def _revoke_lease(installed: Installed, _: Random) -> None:
    lease_id = str(installed.at_work()["lease_id"])
    installed.send("POST", "v2/concurrency_limits/decrement-with-lease", lease_id=lease_id)


def _miscount(installed: Installed, rng: Random) -> None:
    stage = rng.choice(STAGES)
    slots = rng.choice((0, 5 if stage == "store" else 1))
    installed.send("PATCH", f"v2/concurrency_limits/{stage}", active_slots=slots)


def _raise_limit(installed: Installed, rng: Random) -> None:
    installed.send("PATCH", f"v2/concurrency_limits/{rng.choice(STAGES[:2])}", limit=2)
    time.sleep(10)
    _apply(installed)


def _delete_limit(installed: Installed, rng: Random) -> None:
    installed.send("DELETE", f"v2/concurrency_limits/{rng.choice(STAGES)}")
    time.sleep(5)
    _apply(installed)
    # What came to the gate meanwhile was refused with the advice to do just this, and then to retry.
    time.sleep(2)
    if installed.query("SELECT 1 FROM batch_processing WHERE status = 'FAILED'"):
        installed.run_deployment("backfill/adhoc", status="FAILED")


def _apply(installed: Installed) -> None:
    done = installed.tdp("apply", "--json")
    if done.returncode or not json.loads(done.stdout):
        raise RuntimeError(f"`tdp apply` put nothing back:\n{done.stdout}{done.stderr}")


FAULTS: dict[str, Callable[[Installed, Random], None]] = {
    "stage process killed": _kill_one("witness.py", "flows.stages."),
    "supervisor killed": _kill_one("supervise.py"),
    "flow killed": _kill_flow,
    "flow stopped 10-20 s": _stop_flow,
    "worker killed": _end_service("worker"),
    "Prefect server killed": _end_service("prefect-server"),
    "PostgreSQL restarted, fast": _end_service("postgres", signal.SIGINT),
    "PostgreSQL restarted, immediate": _end_service("postgres", signal.SIGQUIT),
    "recovery killed": _end_service("recovery"),
    "monitor killed": _end_service("monitor"),
    "tdp up killed": _kill_up,
    "power cut": _power_cut,
    "run cancelled": _cancel,
    "lease revoked": _revoke_lease,
    "slots miscounted": _miscount,
    "limit raised to 2": _raise_limit,
    "limit deleted": _delete_limit,
}
