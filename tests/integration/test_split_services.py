"""The units of deployments/systemd/split/, run as they are, on an external PostgreSQL."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg.rows import dict_row

from flows import services
from flows.samples import write_samples

UNITS = Path(__file__).parents[2] / "deployments" / "systemd" / "split"
#: A second complete installation: run by `make chaos`, which does not share the machine with other tests.
pytestmark = pytest.mark.matrix
CHECKOUT = "/opt/telegram-data-processor"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(postgres: str, tmp_path: Path) -> dict[str, str]:
    """The environment that systemd sets for the units, with ports and paths of this test."""
    common = read(UNITS / "tdp-.service.d" / "common.conf")["Service"]
    server, monitor, name = services.free_port(), services.free_port(), f"t_{uuid.uuid4().hex[:12]}"
    services.ensure_database(postgres, name)
    socket = postgres.partition("?")[2]
    here = {
        "4200": str(server),
        "postgresql://tdp:change-me@127.0.0.1/tdp": f"postgresql://postgres@/{name}?{socket}",
        "postgresql+asyncpg://tdp:change-me@127.0.0.1/prefect": f"postgresql+asyncpg://postgres@/{name}_p?{socket}",
        "/var/lib/tdp": str(tmp_path / "home"),
    }
    own = read(UNITS / "tdp-server.service")["Service"]["EnvironmentFile"].replace(CHECKOUT, str(ROOT))
    files = [Path(own), UNITS / "tdp.env"]
    lines = common["Environment"].split() + [line for file in files for line in file.read_text().splitlines()]
    lines += [f"TDP_PREFECT_DATABASE={name}_p", f"TDP_MONITOR_PORT={monitor}", "TDP_LOOK_SECONDS=2"]
    variables = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    for old, new in here.items():
        variables = {key: value.replace(old, new) for key, value in variables.items()}
    return variables


def read(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(delimiters="=", comment_prefixes="#", interpolation=None)
    parser.optionxform = str
    parser.read_string(path.read_text())
    return parser


def argv(unit: str, name: str = "ExecStart") -> list[str]:
    return read(UNITS / f"{unit}.service")["Service"][name].replace(f"{CHECKOUT}/.venv", sys.prefix).split()


def run(environment: dict[str, str], command: list[str]) -> str:
    env = os.environ | environment
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def unit(name: str, environment: dict[str, str], logs: Path) -> Iterator[psutil.Popen]:
    """Run a unit until the block ends; then send SIGTERM to all its processes, as systemd does."""
    with (logs / f"{name}.log").open("w") as log:
        env = os.environ | environment
        process = psutil.Popen(argv(name), env=env, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        yield process
        stop(process)


def stop(process: psutil.Popen) -> None:
    family = [process, *process.children(recursive=True)]
    for member in family:
        if member.is_running():
            member.terminate()
    _, left = psutil.wait_procs(family, timeout=30)
    for member in left:
        member.kill()
    assert left == []


def get(url: str) -> bytes | None:
    """Return the body of the response; None for an error or no response."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - http to a loopback port
            return bytes(answer.read())
    except urllib.error.URLError:
        return None


def until(condition: Callable[[], object], logs: Path, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            tails = {log.name: log.read_text()[-2000:] for log in logs.glob("*.log")}
            pytest.fail(f"the condition was not met in time: {tails}")
        time.sleep(0.2)


def test_split_services_process_the_inbox_and_stop_on_sigterm(
    environment: dict[str, str], tmp_path: Path
) -> None:
    home, api = Path(environment["TDP_HOME"]), environment["PREFECT_API_URL"]
    database = environment["TDP_DATABASE_URL"]

    def rows(query: str) -> list[dict[str, object]]:
        with psycopg.connect(database, row_factory=dict_row) as connection:
            return connection.execute(query.encode()).fetchall()

    assert run(environment, argv("tdp-server", "ExecStartPre")).startswith("schema: none -> ")
    with unit("tdp-server", environment, tmp_path):
        until(lambda: get(f"{api}/ready"), tmp_path)
        limits = json.loads(get(f"{api}/admin/settings") or b"{}")["server"]["concurrency"]
        assert limits["lease_storage"] == "prefect.server.concurrency.lease_storage.filesystem"
        assert "limit extract: created with 1" in run(environment, argv("tdp-apply"))
        with (
            unit("tdp-worker", environment, tmp_path),
            unit("tdp-recovery", environment, tmp_path),
            unit("tdp-monitor", environment, tmp_path),
        ):
            write_samples(home / "inbox", 3, 10, 7)
            done = "SELECT 1 FROM batch_processing WHERE status = 'COMPLETED'"
            until(lambda: rows(done), tmp_path)
            monitor = f"http://127.0.0.1:{environment['TDP_MONITOR_PORT']}"
            until(lambda: get(f"{monitor}/health"), tmp_path)
            assert run(environment, argv("tdp-apply")) == "Nothing to change.\n"
    assert rows("SELECT count(*) AS files FROM batch_files WHERE status = 'STORED'") == [{"files": 3}]
