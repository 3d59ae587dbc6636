"""The installation that a soak test runs, as users run it, and the faults that the test causes."""

from __future__ import annotations

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
from bot_api import BotApi
from freezer import frozen
from plant import WITNESS
from plant_services import kill
from psycopg.rows import dict_row

from flows import services
from flows.services import record
from flows.settings import Settings
from flows.stages.runner.process import SUPERVISOR

TDP = Path(sys.executable).with_name("tdp")
STAGES = ("extract", "convert", "store")
LIMITS = "v2/concurrency_limits"
#: Numeric ids of the users who send files to the bot.
USERS = (1001, 1002)
AT_WORK = "SELECT * FROM stage_runs WHERE started_at IS NOT NULL AND finished_at IS NULL"
TIME_OUTS = ("statement_timeout", "lock_timeout", "idle_session_timeout", "transaction_timeout")
T = TypeVar("T")


class NoTarget(Exception):
    """The target of the fault does not exist at the moment."""


class Installed:
    """One home, its `tdp up` process, and the commands and requests that the test sends to it."""

    up: subprocess.Popen[bytes]

    def __init__(self, folder: Path, api: BotApi) -> None:
        self.api = api
        ports = {"server_port": services.free_port(), "monitor_port": services.free_port()}
        self.settings = Settings(home=folder / "home", **ports)
        self.screen, self.marks = folder / "up.log", folder / "marks"
        self.marks.mkdir()
        settings = {"HOME": self.settings.root, **ports, "SETTLE_SECONDS": 0.5, "BATCH_SIZE": 5}
        settings |= {"BOT_TOKEN": api.token, "BOT_API_URL": api.url}
        settings |= {"BOT_UPLOADERS": ", ".join(map(str, USERS))}
        variables = {f"TDP_{name.upper()}": str(value) for name, value in settings.items()}
        self.environment = os.environ | variables | {"COLUMNS": "110"}

    def start(self) -> None:
        """Run `tdp up` and wait until it reports that it is ready."""
        with self.screen.open("ab") as out:
            seen, to = out.tell(), {"stdout": out, "stderr": out}
            self.up = subprocess.Popen([TDP, "up"], env=self.environment, start_new_session=True, **to)
        self.until(lambda: b"Ready." in self.screen.read_bytes()[seen:] or self.up.poll() is not None, 600)
        if self.up.poll() is not None:
            raise RuntimeError(f"`tdp up` did not start:\n{self.screen.read_text()[-3000:]}")

    def tdp(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the installation to its end."""
        command = [TDP, *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)

    def watch_stages(self, seconds: float) -> None:
        """Run every stage behind the witness, which waits for ``seconds`` before the work."""
        for stage in STAGES:
            mark = self.marks / ("{batch_id}" if stage == "store" else stage)
            command = [sys.executable, str(WITNESS), str(mark), str(seconds), stage, "{input}", "{output}"]
            path = f"block_types/slug/tdp-stage-command/block_documents/name/{stage}"
            path = f"block_documents/{self.send('GET', path)['id']}"
            self.send("PATCH", path, data={"command": command}, merge_existing_data=True)

    def run_deployment(self, name: str, **parameters: object) -> str:
        """Create a flow run as the UI does; return its id."""
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
            cursor = ledger.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def terminate_sessions(self) -> None:
        """End all sessions with which flows hold locks, as a restart of PostgreSQL does."""
        self.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name ~ '^tdp (run|extract|convert|store|batch) '"
        )

    def until(self, look: Callable[[], T], seconds: float) -> T:
        """Return the first true value of ``look``, or its last value when the time is over."""
        deadline = time.monotonic() + seconds
        while True:
            with suppress(psycopg.OperationalError, httpx.HTTPError):  # a service is being restarted
                if (found := look()) or time.monotonic() > deadline:
                    return found
            time.sleep(0.1)

    def at_work(self) -> dict[str, Any]:
        """Wait for an active stage run and return its row."""
        if found := self.until(lambda: self.query(AT_WORK), 90):
            return found[0]
        raise NoTarget

    def flow(self) -> psutil.Process:
        """Return the process of a flow with an active stage run."""
        return psutil.Process(self.at_work()["pid"])

    def service(self, name: str) -> psutil.Process:
        if found := record.find(record.read(self.settings)["services"][name]):
            return found
        raise NoTarget

    def below(self, *words: str) -> list[psutil.Process]:
        """Return the descendants of `tdp up` whose command line contains one of the words."""
        below = psutil.Process(self.up.pid).children(recursive=True)
        return [process for process in below if any(word in _command(process) for word in words)]


def _command(process: psutil.Process) -> str:
    """Return the command line of the process; "" if it has exited."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


Fault = Callable[[Installed, Random], None]


def _kill_one(*words: str) -> Fault:
    def fault(installed: Installed, rng: Random) -> None:
        installed.at_work()
        if not (found := installed.below(*words)):
            raise NoTarget
        rng.choice(found).kill()

    return fault


def _freeze(target: Callable[[Installed], psutil.Process], *, lose_sessions: bool = False) -> Fault:
    """Stop one process for 10 to 20 s; with ``lose_sessions``, the sessions of its flows end meanwhile."""

    def fault(installed: Installed, rng: Random) -> None:
        installed.at_work()
        process = target(installed)
        process.suspend()
        try:
            time.sleep(rng.uniform(1, 5))
            if lose_sessions:
                installed.terminate_sessions()
            time.sleep(rng.uniform(9, 15))
        finally:
            process.resume()

    return fault


def _freeze_runs(installed: Installed, rng: Random) -> None:
    """Freeze the worker, its flow runs and stages as a suspended host is; their sessions end meanwhile."""
    installed.at_work()
    worker = installed.service("worker")
    with frozen([worker, *worker.children(recursive=True)]):
        time.sleep(rng.uniform(1, 5))
        installed.terminate_sessions()
        time.sleep(rng.uniform(10, 20))


def _set_timeouts(installed: Installed, rng: Random) -> None:
    """Let the database end statements, waits and idle sessions after 2 s, for new sessions."""
    (row,) = installed.query("SELECT current_database() AS name")
    for timeout in TIME_OUTS:
        installed.query(f"ALTER DATABASE {row['name']} SET {timeout} = 2000")
    try:
        installed.terminate_sessions()
        time.sleep(rng.uniform(15, 25))
    finally:
        installed.query(f"ALTER DATABASE {row['name']} RESET ALL")


def _start_again(end: Callable[[Installed], None]) -> Fault:
    def fault(installed: Installed, _: Random) -> None:
        installed.at_work()
        end(installed)
        installed.up.wait()
        installed.start()

    return fault


def _cancel(installed: Installed, rng: Random) -> None:
    installed.at_work()
    if not (running := installed.flow_runs("RUNNING")):
        raise NoTarget
    cancelling = {"type": "CANCELLING", "name": "Cancelling"}
    installed.send("POST", f"flow_runs/{rng.choice(running)['id']}/set_state", state=cancelling)


def _revoke_lease(installed: Installed, _: Random) -> None:
    installed.send("POST", f"{LIMITS}/decrement-with-lease", lease_id=str(installed.at_work()["lease_id"]))


def _miscount(installed: Installed, rng: Random) -> None:
    stage = rng.choice(STAGES)
    slots = rng.choice((0, 5 if stage == "store" else 1))
    installed.send("PATCH", f"{LIMITS}/{stage}", active_slots=slots)


def _raise_limit(installed: Installed, rng: Random) -> None:
    installed.send("PATCH", f"{LIMITS}/{rng.choice(STAGES[:2])}", limit=2)
    time.sleep(10)
    installed.tdp("apply")


def _delete_limit(installed: Installed, rng: Random) -> None:
    installed.send("DELETE", f"{LIMITS}/{rng.choice(STAGES)}")
    time.sleep(5)
    installed.tdp("apply")
    # Stage runs failed meanwhile, with the advice to run `tdp apply` and then to retry.
    time.sleep(2)
    if installed.query("SELECT 1 FROM batch_processing WHERE status = 'FAILED'"):
        installed.run_deployment("backfill/adhoc", status="FAILED")


def _break_bot_api(installed: Installed, _: Random) -> None:
    """Let Telegram ask for pauses, lose answers, cut downloads off and let links die."""
    api = installed.api
    api.fail("getupdates", 429, "Too Many Requests: retry after 1", retry_after=1)
    api.fail("getFile", 500, "Internal Server Error", times=2)
    api.fail("sendMessage", 429, "Too Many Requests: retry after 2", retry_after=2)
    api.drop("sendMessage")
    api.drop("editMessageText")
    api.drop("getFile")
    api.cut(10, 0, 400)
    api.expire_links()


def _hold_bot_api(installed: Installed, rng: Random) -> None:
    """Let Telegram not answer for 10 to 20 s."""
    with installed.api.hold("getUpdates"), installed.api.hold("getFile"), installed.api.hold("sendMessage"):
        time.sleep(rng.uniform(10, 20))


#: Where an operator would have to restore a limit, the fault itself does so with `tdp apply`.
FAULTS: dict[str, Fault] = {
    "stage process killed": _kill_one("witness.py", "flows.stages."),
    "supervisor killed": _kill_one(str(SUPERVISOR)),
    "flow killed": lambda installed, _: installed.flow().kill(),
    "flow frozen": _freeze(Installed.flow),
    "flow frozen, its sessions terminated": _freeze(Installed.flow, lose_sessions=True),
    "worker frozen, sessions terminated": _freeze(
        lambda installed: installed.service("worker"), lose_sessions=True
    ),
    "worker and its runs frozen as a host, sessions terminated": _freeze_runs,
    "sessions terminated": lambda installed, _: installed.terminate_sessions(),
    "timeouts of the database": _set_timeouts,
    "worker killed": lambda installed, _: installed.service("worker").kill(),
    "Prefect server killed": lambda installed, _: installed.service("prefect-server").kill(),
    "PostgreSQL restarted, fast": lambda installed, _: _end_postgres(installed, signal.SIGINT),
    "PostgreSQL restarted, immediate": lambda installed, _: _end_postgres(installed, signal.SIGQUIT),
    "recovery killed": lambda installed, _: installed.service("recovery").kill(),
    "bot killed": lambda installed, _: installed.service("bot").kill(),
    "Bot API fails": _break_bot_api,
    "Bot API does not respond": _hold_bot_api,
    "monitor killed": lambda installed, _: installed.service("monitor").kill(),
    "tdp up killed": _start_again(lambda installed: installed.up.kill()),
    "everything killed": _start_again(lambda installed: kill([psutil.Process(installed.up.pid)])),
    "run cancelled": _cancel,
    "lease revoked": _revoke_lease,
    "slots miscounted": _miscount,
    "limit raised to 2": _raise_limit,
    "limit deleted": _delete_limit,
}


def _end_postgres(installed: Installed, how: signal.Signals) -> None:
    installed.service("postgres").send_signal(how)
