"""The services of one machine: start, discovery, and a complete stop, however they are ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, STDOUT

import httpx
import psutil
import psycopg
import pytest
from homes import new_home, processes_of
from pydantic import SecretStr

from flows import services
from flows.errors import ServiceFailed
from flows.services import record
from flows.settings import Settings

TDP = [sys.executable, "-m", "flows.cli"]


@pytest.fixture
def settings(open_folder: Path, tmp_path: Path) -> Settings:
    return new_home(open_folder / tmp_path.name)


@pytest.fixture
def up(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """`tdp up` in its own process group, ready."""
    with owner(settings, *TDP, "up") as process:
        yield process


@pytest.fixture
def up_without_worker(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """PostgreSQL and the Prefect server only, kept running by another process."""
    script = (
        "from flows import services; from flows.settings import Settings\n"
        "with services.installation(Settings()) as up: print('Ready', flush=True); up.wait(print)"
    )
    with owner(settings, sys.executable, "-c", script) as process:
        yield process


@contextlib.contextmanager
def owner(settings: Settings, *command: str) -> Iterator[subprocess.Popen[str]]:
    env = os.environ | variables(settings)
    process = subprocess.Popen(
        command, env=env, stdout=PIPE, stderr=STDOUT, text=True, start_new_session=True
    )
    with process:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if line.startswith("Ready"):
                break
        else:
            pytest.fail("".join(seen))
        try:
            yield process
        finally:
            process.kill()
    services.remove(settings)


def variables(settings: Settings) -> dict[str, str]:
    return {
        "TDP_HOME": str(settings.root),
        "TDP_SERVER_PORT": str(settings.server_port),
        "TDP_MONITOR_PORT": str(settings.monitor_port),
    }


def tdp(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TDP, *arguments], env=os.environ | variables(settings), capture_output=True, text=True, check=False
    )


def test_services_start_are_found_and_leave_nothing_behind(settings: Settings) -> None:
    assert services.running(settings) is None
    with services.installation(settings) as started:
        found = services.running(Settings(home=settings.home))
        assert found is not None
        assert found.url == started.url == f"http://127.0.0.1:{settings.server_port}"
        with psycopg.connect(settings.database) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
            assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        with pytest.raises(services.AlreadyRunning), services.installation(settings):
            pass
        second = Settings(home=f"{settings.home}-2", database_url=SecretStr(settings.database))
        named = re.escape(f":{settings.root}"[-40:])
        with pytest.raises(ServiceFailed, match=named), services.installation(second):
            pass
    assert services.running(settings) is None
    assert processes_of(settings) == []
    with services.postgres(settings), psycopg.connect(settings.database) as connection:
        assert connection.execute("SELECT number FROM kept").fetchall() == [(7,)]
    assert processes_of(settings) == []


@pytest.mark.matrix  # in the suite, acceptance has Ctrl-C in mid-work
def test_ctrl_c_stops_all_services_in_order(
    up: subprocess.Popen[str], settings: Settings, tmp_path: Path
) -> None:
    again = tdp(settings, "up")
    assert (again.returncode, "already running" in again.stderr) == (1, True)
    assert tdp(settings, "psql", "-Atc", "SELECT count(*) FROM stages").stdout == "3\n"
    assert tdp(settings, "apply").stdout == "Nothing to change.\n"
    work = stage_at_work(settings, tmp_path)

    os.killpg(up.pid, signal.SIGINT)
    assert up.wait(60) == 0
    assert not work.is_running()
    assert processes_of(settings) == []
    assert "database system is shut down" in (settings.logs / "postgres.log").read_text()
    assert tdp(settings, "psql", "-c", "SELECT 1").returncode == 1
    with services.postgres(settings), psycopg.connect(settings.database, dbname="prefect") as connection:
        # Scheduled runs may exist as well: they wait, or are cancelled.
        query = "SELECT name, state_type FROM flow_run WHERE state_type NOT IN ('SCHEDULED', 'CANCELLED')"
        states = dict(connection.execute(query).fetchall())
    assert len(states) == 2
    assert set(states.values()) == {"CRASHED"}  # if they had been killed, they would stay Running


def stage_at_work(settings: Settings, tmp_path: Path) -> psutil.Process:
    """Let the worker start an inbox run whose extract does not end; return the process of the extract."""
    working = tmp_path / "working"
    os.mkfifo(working)
    command = ["sh", "-c", f"echo $$ > {working}; sleep 1000"]
    save = (
        f"from blocks import StageCommand; StageCommand(command={command!r}).save('extract', overwrite=True)"
    )
    env = os.environ | json.loads(tdp(settings, "env", "--json").stdout)
    subprocess.run([sys.executable, "-c", save], env=env, check=True)
    assert tdp(settings, "sample", str(settings.inbox), "--files", "1").returncode == 0
    os.utime(next(settings.inbox.iterdir()), (0, 0))  # older than settle_seconds
    start = [sys.executable, "-m", "prefect", "deployment", "run", "process-inbox/scheduled"]
    subprocess.run(start, env=env, check=True, capture_output=True)
    return psutil.Process(int(working.read_text()))


@pytest.mark.matrix  # in the suite, the services are killed one by one, and their owner is stopped
def test_services_of_a_killed_owner_are_stopped_by_the_next(
    up_without_worker: subprocess.Popen[str], settings: Settings
) -> None:
    up_without_worker.kill()
    up_without_worker.wait()
    orphan = record.find(record.read(settings)["services"]["postgres"])
    assert orphan is not None
    with services.installation(settings):
        assert not orphan.is_running()
    assert processes_of(settings) == []


def test_services_that_exit_are_restarted(
    up_without_worker: subprocess.Popen[str], settings: Settings
) -> None:
    def service(name: str) -> psutil.Process | None:
        found = record.read(settings)["services"].get(name)
        return found and record.find(found)

    for name in ("postgres", "prefect-server"):
        first = service(name)
        assert first is not None
        first.kill()
        deadline = time.monotonic() + 60
        while not ((now := service(name)) and now.pid != first.pid and answers(settings)):
            assert up_without_worker.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)


def answers(settings: Settings) -> bool:
    try:
        found = services.running(settings)
        url = f"{services.server_url(found.settings if found else settings)}/api/flows/count"
        return httpx.post(url, json={}).is_success  # this endpoint queries PostgreSQL
    except httpx.HTTPError:
        return False


def test_a_stale_record_is_ignored(settings: Settings) -> None:
    settings.root.mkdir()
    me = psutil.Process()
    record.add(settings, "postgres", me, signal.SIGINT, Path("log"))
    record.add(settings, "prefect-server", me, signal.SIGTERM, Path("log"))
    record.write(settings, {"settings": {"server_port": 1}})
    assert services.running(settings) is not None
    entries = record.read(settings)["services"]
    for entry in entries.values():
        entry["started"] -= 3600  # the same pid, but started earlier
    record.write(settings, {"services": entries})
    assert services.running(settings) is None
    services.remove(settings)
    assert not settings.root.exists()


@pytest.fixture
def small_disk(open_folder: Path) -> Iterator[Path]:
    """A file system of 400 MB of its own."""
    folder = open_folder / "small-disk"
    folder.mkdir()
    mount = ["/usr/bin/mount", "-t", "tmpfs", "-o", "size=400m,mode=755", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a file system")
    yield folder
    subprocess.run(["/usr/bin/umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write a file until the disk is full."""
    with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass
    return folder / "filler"


def crash(settings: Settings) -> None:
    """End PostgreSQL as a failed write of its write-ahead log does; on a full disk it cannot start again."""
    server = record.find(record.read(settings)["services"]["postgres"])
    assert server
    server.kill()


def test_services_outlive_a_full_disk(small_disk: Path) -> None:
    settings = Settings(home=small_disk / "home")
    script = (
        "from contextlib import ExitStack; from flows import services; from flows.settings import Settings\n"
        "from flows.services.installation import Installation\n"
        "settings = Settings(); settings.root.mkdir()\n"
        "with ExitStack() as stack:\n"
        "    up = Installation(settings, stack); up.start(services.postgres)\n"
        "    print('Ready', flush=True); up.wait(lambda line: print(line, flush=True))"
    )
    with owner(settings, sys.executable, "-c", script) as up:
        assert up.stdout is not None
        filler = fill(small_disk)
        crash(settings)
        line = up.stdout.readline()
        assert line.startswith(f"The disk is full: {settings.root} has "), line
        filler.unlink()
        assert [up.stdout.readline() for _ in range(2)] == [
            "The disk has space again.\n",
            "postgres exited with status -9; restarting it.\n",
        ]
        while not answers_sql(settings):
            assert up.poll() is None
        fill(small_disk)
        crash(settings)
        assert "The disk is full" in up.stdout.readline()
        up.send_signal(signal.SIGINT)
        rest = up.stdout.read()
        assert "No space left" not in rest, rest
        assert rest.endswith("KeyboardInterrupt\n"), rest


def answers_sql(settings: Settings) -> bool:
    try:
        with psycopg.connect(settings.database) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False
