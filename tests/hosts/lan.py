"""Several hosts on one machine: network and pid namespaces of their own, connected by a bridge.

The hub has the services of the first host in deployments/compose/several.yaml: PostgreSQL and Redis with
passwords, the Prefect API, its background services, recovery. Every host has a worker and shares the home. No
traffic leaves the namespaces; the test itself queries PostgreSQL through its unix socket.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import yaml
from psycopg.rows import dict_row

from flows import services
from flows.services.prefect import server_settings
from flows.services.processes import stop
from flows.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deployments" / "compose"
#: Directory of prefect-redis, which only the servers need; `make hosts` installs it.
REDIS_PACKAGE = Path(sys.prefix) / "hosts"
HUB, NET = "10.77.0.1", "10.77.0.0/24"
BIN = Path(sys.executable).parent


def run(*command: str | Path, **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def missing() -> str | None:
    """Return the reason why this machine cannot run hosts; None if it can."""
    if os.geteuid() != 0:
        return "network namespaces require root"
    for program, package in (("ip", "iproute2"), ("redis-server", "redis-server")):
        if shutil.which(program) is None:
            return f"{program} is missing: install Debian's package {package}"
    if not (REDIS_PACKAGE / "prefect_redis").is_dir():
        return "prefect-redis is missing: `make hosts` installs it"
    name = f"tdp-{os.getpid()}"
    try:
        run("ip", "netns", "add", name)
        run("ip", "netns", "del", name)
    except AssertionError as error:
        return f"network namespaces cannot be created: {error}"
    return None


class Hosts:
    """The hub and its hosts; everything started here ends with ``stack``."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.settings = Settings(home=home)
        self.stack = stack
        self.services: dict[str, psutil.Popen] = {}
        self.prefix = f"tdp{os.getpid()}"
        self.password = secrets.token_hex(8)
        database = f"postgresql://tdp:{self.password}@{HUB}"
        self.environment = {name: value for name, value in os.environ.items() if "PREFECT" not in name} | {
            "TDP_HOME": str(home),
            "TDP_DATABASE_URL": f"{database}/tdp",
            "TDP_SERVER_HOST": HUB,
            "TDP_SETTLE_SECONDS": "0",
            "TDP_BATCH_SIZE": "1",
            "PREFECT_API_URL": f"http://{HUB}:4200/api",
            "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_HOME": str(home / "prefect-hub"),
        }
        containers = yaml.safe_load((COMPOSE / "several.yaml").read_text())["services"]
        shared = {name: self._redis(value) for name, value in containers["server"]["environment"].items()}
        self.server = {
            **server_settings({}),
            **shared,
            "PREFECT_API_DATABASE_CONNECTION_URL": f"{database.replace('://', '+asyncpg://')}/prefect",
            "PREFECT_SERVER_API_HOST": HUB,
            "PREFECT_SERVER_LOGGING_LEVEL": "INFO",  # a line for each request
            "PYTHONPATH": str(REDIS_PACKAGE),
        }
        self.seeds = {"TDP_FAN_OUT": containers["apply"]["environment"]["TDP_FAN_OUT"], "TDP_WINDOW": "8"}
        self.redis = [part.replace("$$", "$") for part in containers["redis"]["command"]]

    def _redis(self, value: str) -> str:
        if not value.startswith("redis://"):
            return value
        return f"redis://:{self.password}@{HUB}:6379/{value.rpartition('/')[2]}"

    def namespace(self, name: str, address: str) -> None:
        """Create a namespace with this address; the hub, which is created first, has the bridge."""
        space, hub = f"{self.prefix}-{name}", f"{self.prefix}-hub"
        run("ip", "netns", "add", space)
        self.stack.callback(self._remove, space)
        run("ip", "-n", space, "link", "set", "lo", "up")
        if name == "hub":
            run("ip", "-n", hub, "link", "add", "lan", "type", "bridge")
            device = "lan"
        else:
            peer = ["peer", "name", name, "netns", hub]
            run("ip", "-n", space, "link", "add", "eth0", "type", "veth", *peer)
            run("ip", "-n", hub, "link", "set", name, "master", "lan", "up")
            device = "eth0"
        run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", device)
        run("ip", "-n", space, "link", "set", device, "up")

    def _remove(self, space: str) -> None:
        for pid in run("ip", "netns", "pids", space).split():
            with suppress(psutil.NoSuchProcess):
                psutil.Process(int(pid)).kill()
        run("ip", "netns", "del", space)

    def link(self, name: str, state: str) -> None:
        """Set the link of a host ``down`` or ``up``."""
        run("ip", "-n", f"{self.prefix}-hub", "link", "set", name, state)

    def start(self, name: str, log: str, *command: str | Path, **environment: str) -> None:
        """Start a service in a namespace under the host name ``name``."""
        self.settings.logs.mkdir(parents=True, exist_ok=True)
        inside = ["ip", "netns", "exec", f"{self.prefix}-{name}", "unshare", "--uts"]
        if name != "hub":  # a host has process ids of its own, and does not see the processes of the others
            inside += ["--pid", "--fork", "--kill-child=SIGTERM", "--mount-proc"]
        inside += ["sh", "-c", 'hostname "$0"; exec "$@"', name]
        with (self.settings.logs / f"{log}.log").open("wb") as out:
            process = psutil.Popen(
                [*inside, *map(str, command)],
                env=self.environment | environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.stack.callback(stop, process, signal.SIGTERM, 10)
        self.services[log] = process

    def call(self, *command: str | Path, **environment: str) -> str:
        """Run a command in the hub to its end; return what it printed."""
        space = f"{self.prefix}-hub"
        return run("ip", "netns", "exec", space, *command, env=self.environment | environment, cwd=ROOT)

    def start_hub(self) -> None:
        """Start databases, API, services and recovery, and run `tdp apply`."""
        self.namespace("hub", f"{HUB}")
        self._postgres()
        *shell, script = self.redis
        redis = f"{script} --bind {HUB} --dir {self.settings.root}"
        self.start("hub", "redis", *shell, redis, REDIS_PASSWORD=self.password)
        self.call(BIN / "tdp", "migrate")
        prefect = [sys.executable, "-m", "prefect", "server"]
        self.start("hub", "api", *prefect, "start", "--no-services", **self.server)
        ready = f"import urllib.request as u; u.urlopen('http://{HUB}:4200/api/ready', timeout=5)"
        until(lambda: self._answers(ready), 180)
        self.start("hub", "services", *prefect, "services", "start", **self.server)
        self.call(BIN / "tdp", "apply", **self.seeds)
        self.start("hub", "recovery", sys.executable, "-m", "flows.operations.recovery")

    def _answers(self, code: str) -> bool:
        with suppress(AssertionError):
            self.call(sys.executable, "-c", code)
            return True
        return False

    def start_host(self, number: int, *options: str) -> None:
        """Add the host ``h<number>`` with a worker, which gets the options."""
        name, temporary = f"h{number}", self.settings.root / f"tmp-h{number}"
        temporary.mkdir()
        self.namespace(name, f"10.77.0.{10 + number}")
        own = {"PREFECT_HOME": str(self.settings.root / f"prefect-{name}"), "TMPDIR": str(temporary)}
        worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", services.WORK_POOL]
        self.start(name, f"worker-{name}", *worker, "--type", "process", "--name", name, *options, **own)

    def _postgres(self) -> None:
        with services.postgres(self.settings):  # creates the cluster with its two databases
            role = f"CREATE ROLE tdp SUPERUSER LOGIN PASSWORD '{self.password}'"
            self.query(role)
        data = self.settings.postgres_data
        (data / "pg_hba.conf").write_text(f"local all all trust\nhost all all {NET} scram-sha-256\n")
        user = f"#{data.stat().st_uid}"
        options = ["-c", f"listen_addresses={HUB}", "-c", "max_connections=500", "-c", "timezone=UTC"]
        server = [services.binary("postgres"), "-D", data, "-k", self.settings.postgres_socket, *options]
        self.start("hub", "postgres", "setpriv", "--reuid", user[1:], "--clear-groups", "--", *server)
        until(self._is_up, 60)

    def _is_up(self) -> bool:
        with suppress(psycopg.OperationalError):
            return bool(self.query("SELECT 1"))
        return False

    def query(self, statement: str, *values: object, database: str = "tdp") -> list[dict[str, Any]]:
        """Return the rows of a statement, run from outside the namespaces."""
        url = self.settings.embedded_url.replace("/tdp?", f"/{database}?")
        with psycopg.connect(url, row_factory=dict_row, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def processes(self, name: str) -> list[psutil.Process]:
        """Return the processes of a namespace."""
        found = []
        for pid in run("ip", "netns", "pids", f"{self.prefix}-{name}").split():
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU seconds of a service, including its ended and its running children."""
    times = process.cpu_times()
    used = times.user + times.system + times.children_user + times.children_system
    with suppress(psutil.NoSuchProcess):
        used += sum(cpu_seconds(child) for child in process.children())
    return used


def requests_by_route(log: Path) -> Counter[str]:
    """Count the requests in the log of a Prefect API, by method and path without ids."""
    found = re.findall(r'"([A-Z]+ /api/\S*) HTTP', log.read_text(errors="replace"))
    return Counter(re.sub(r"[0-9a-f-]{36}", "{id}", route.partition("?")[0]) for route in found)


def until(condition: Callable[[], Any], seconds: float, pause: float = 0.05) -> Any:
    """Return the first true value of ``condition``; other processes send no event, so it is polled."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not true within {seconds:g} s"
        time.sleep(pause)
    return value
