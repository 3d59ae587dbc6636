"""Access without the auth string is rejected, and secrets are not in any place where they could leak."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import psycopg
import pytest
from pydantic import SecretStr, ValidationError

from flows import services
from flows.errors import ServiceFailed
from flows.monitor import monitor
from flows.samples import write_samples
from flows.settings import Settings

TDP = Path(sys.executable).with_name("tdp")
PASSWORD, TOKEN, KEY = "db7Qw2pass", "stage5Kt9token", "api3Zx8key"
SECRETS = (PASSWORD, TOKEN, KEY)
#: An address that resolves to loopback but does not look like it, so it is treated as a public one.
PUBLIC = "127.1"
#: Writes its environment to a file, then runs the built-in stage.
WRITES_ENVIRONMENT = 'env > "$2.env"; exec "$0" -I -m flows.stages.extract "$1" "$2"'
INHERITED = {"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONUTF8", "STAGE_TOKEN"}
SHELLS_OWN = {"PWD", "OLDPWD", "SHLVL", "_"}
T = TypeVar("T")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", PUBLIC])  # noqa: S104 - refused
def test_no_service_listens_publicly_without_an_auth_string(host: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", server_host=host, monitor_host=host)
    with pytest.raises(ServiceFailed, match="TDP_AUTH_STRING"), services.installation(settings):
        pass
    with pytest.raises(ServiceFailed, match="TDP_AUTH_STRING"), monitor(settings):
        pass
    assert not settings.root.exists()


def test_a_password_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TDP_DATABASE_URL", f"postgresql://tdp@127.0.0.1/tdp?password={PASSWORD}")
    with pytest.raises(ValidationError, match="before the @") as refused:
        Settings()
    assert PASSWORD not in str(refused.value)
    settings = Settings(
        database_url=SecretStr(f"postgresql://tdp:{PASSWORD}@127.0.0.1:1/tdp"), auth_string=SecretStr(KEY)
    )
    assert not any(secret in repr(settings) for secret in SECRETS)
    with pytest.raises(ServiceFailed, match="does not respond") as failed, services.postgres(settings):
        pass
    assert PASSWORD not in str(failed.value)


class Guarded:
    """An installation with an auth string, on a PostgreSQL with passwords, started with umask 022."""

    def __init__(self, folder: Path, database: str) -> None:
        self.settings = Settings(
            home=folder / "home",
            database_url=SecretStr(database),
            server_host=PUBLIC,
            server_port=services.free_port(),
            monitor_host=PUBLIC,
            monitor_port=services.free_port(),
            prefect_database="guarded_prefect",
            auth_string=SecretStr(f"operator:{KEY}"),
        )
        self.url, self.monitor = services.server_url(self.settings), services.monitor_url(self.settings)
        self.screen = folder / "up.log"
        self.seen: set[str] = set()
        names = ("home", "server_host", "server_port", "monitor_host", "monitor_port", "prefect_database")
        self.environment = os.environ | {
            **{f"TDP_{name.upper()}": str(getattr(self.settings, name)) for name in names},
            "TDP_DATABASE_URL": database,
            "TDP_AUTH_STRING": f"operator:{KEY}",
            "TDP_SETTLE_SECONDS": "0",
        }

    def until(self, check: Callable[[], T]) -> T:
        """Return the first true result of ``check``; meanwhile collect command lines with a secret."""
        deadline = time.monotonic() + 180
        while not (found := check()):
            assert time.monotonic() < deadline, self.screen.read_text()
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    command = " ".join(process.cmdline())
                    self.seen |= {command for secret in SECRETS if secret in command}
            time.sleep(0.25)
        return found

    @contextmanager
    def up(self) -> Iterator[None]:
        with self.screen.open("wb") as out:
            started = subprocess.Popen(
                [TDP, "up"], env=self.environment, stdout=out, stderr=out, umask=0o022, start_new_session=True
            )
        try:
            self.until(lambda: b"Ready." in self.screen.read_bytes() or started.poll() is not None)
            assert started.poll() is None, self.screen.read_text()
            yield
        finally:
            started.terminate()
            started.wait(60)

    def tdp(self, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        environment = self.environment | changed
        return subprocess.run(
            [TDP, *arguments], env=environment, capture_output=True, text=True, check=False, umask=0o022
        )

    def send(self, method: str, path: str, **body: object) -> Any:
        auth = ("operator", KEY)
        answer = httpx.request(method, f"{self.url}/api/{path}", json=body, auth=auth, timeout=30)
        return answer.raise_for_status().json() if answer.content else None

    def is_done(self) -> bool:
        """Return whether the batch is completed and no flow run is open, scheduled ones included."""
        wanted = {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}
        is_open = bool(self.send("POST", "flow_runs/filter", flow_runs=wanted))
        return self.query("SELECT status FROM batch_processing") == [("COMPLETED",)] and not is_open

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.settings.database) as ledger:
            return ledger.execute(statement.encode()).fetchall()


@pytest.fixture(scope="module")
def database(open_folder: Path) -> Iterator[str]:
    """URL of a database on a PostgreSQL server that listens on loopback and requires a password."""
    home, port = open_folder / "guarded", services.free_port()
    settings = Settings(home=home)
    try:
        with services.postgres(settings), psycopg.connect(settings.database, autocommit=True) as admin:
            admin.execute(f"CREATE ROLE tdp LOGIN CREATEDB PASSWORD '{PASSWORD}'".encode())
            admin.execute("CREATE DATABASE guarded OWNER tdp")
        (settings.postgres_data / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        command = [services.binary("postgres"), "-D", settings.postgres_data, "-p", str(port)]
        options = ["--listen_addresses=127.0.0.1", "--unix_socket_directories=", "--max_connections=200"]
        owner = settings.postgres_data.stat()
        user = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
        with (home / "guarded.log").open("wb") as log:
            server = subprocess.Popen([*command, *options], stdout=log, stderr=log, cwd="/", **user)
        yield f"postgresql://tdp:{PASSWORD}@127.0.0.1:{port}/guarded"
        server.terminate()
        server.wait(30)
    finally:
        services.remove(settings)


@pytest.fixture(scope="module")
def guarded(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """The installation after it has processed a batch."""
    guarded = Guarded(tmp_path_factory.mktemp("guarded"), database)
    with guarded.up():
        document = guarded.send("GET", "block_types/slug/tdp-stage-command/block_documents/name/extract")
        command = ["sh", "-c", WRITES_ENVIRONMENT, sys.executable, "{input}", "{output}"]
        data = {"command": command, "environment": {"STAGE_TOKEN": TOKEN}}
        guarded.send("PATCH", f"block_documents/{document['id']}", data=data, merge_existing_data=True)
        write_samples(guarded.settings.inbox, files=2, messages=10, seed=5, broken=1)
        deployment = guarded.send("GET", "deployments/name/process-inbox/scheduled")
        path = f"deployments/{deployment['id']}/create_flow_run"
        guarded.send("POST", path, state={"type": "SCHEDULED"})
        guarded.until(guarded.is_done)
        yield guarded


def test_requests_without_the_auth_string_are_rejected(guarded: Guarded) -> None:
    assert httpx.post(f"{guarded.url}/api/flow_runs/filter", json={}).status_code == 401
    assert httpx.get(f"{guarded.url}/api/admin/settings", auth=("operator", "guess")).status_code == 401
    assert httpx.get(f"{guarded.url}/ui-settings").json()["auth"] == "BASIC"
    for page in ("metrics", "timeline.svg"):
        refused = httpx.get(f"{guarded.monitor}/{page}")
        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, 'Basic realm="tdp"')
    assert httpx.get(f"{guarded.monitor}/health").json() == {"status": "healthy"}
    health = httpx.get(f"{guarded.monitor}/health", auth=("operator", KEY)).json()
    assert health["components"]["prefect_server"]["ok"] and health["components"]["worker"]["ok"]
    assert "tdp_memory_bytes" in httpx.get(f"{guarded.monitor}/metrics", auth=("operator", KEY)).text


def test_all_services_listen_on_loopback_only(guarded: Guarded) -> None:
    listening = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("TDP_HOME") == str(guarded.settings.root):
                listening |= {c.laddr for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
    # The worker has further ports, for its flow runs.
    assert {guarded.settings.server_port, guarded.settings.monitor_port} <= {port for _, port in listening}
    assert {host for host, _ in listening} == {"127.0.0.1"}


def test_all_parts_work_with_the_auth_string(guarded: Guarded) -> None:
    statuses = sorted(status for (status,) in guarded.query("SELECT status FROM batch_files"))
    assert statuses == ["QUARANTINED", "STORED", "STORED"]
    verified = guarded.tdp("verify", "--json")
    assert verified.returncode == 0, verified.stdout
    assert json.loads(guarded.tdp("status", "--json").stdout)["lanes"][0]["limit"] == 1
    assert guarded.tdp("apply").stdout == "Nothing to change.\n"
    variables = json.loads(guarded.tdp("env", "--json").stdout)
    prefect = [TDP.with_name("prefect"), "deployment", "ls"]
    listed = subprocess.run(prefect, env=os.environ | variables, capture_output=True, text=True, check=True)
    assert "process-inbox/scheduled" in listed.stdout


def test_a_command_without_the_auth_string_names_the_variable(guarded: Guarded) -> None:
    refused = guarded.tdp("apply", TDP_AUTH_STRING="")
    assert (refused.returncode, refused.stderr.count("set TDP_AUTH_STRING")) == (1, 1)


def test_secrets_are_in_no_log_artifact_or_command_line(guarded: Guarded, tmp_path: Path) -> None:
    assert guarded.seen == set()
    files = [guarded.screen, *(path for path in guarded.settings.root.rglob("*") if path.is_file())]
    logs = {f"{name}.log" for name in ("worker", "prefect-server", "monitor", "recovery")}
    assert logs <= {path.name for path in files}
    leaks = {path for path in files for secret in SECRETS if secret.encode() in path.read_bytes()}
    # Prefect passes a flow run's environment to its process in tmp; the test's stage writes extract.env.
    handed_over = guarded.settings.root / "tmp"
    assert {path.name for path in leaks if handed_over not in path.parents} == {"extract.env"}
    done = guarded.tdp("dump", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for name in ("tdp", "prefect"):
        restore = [services.binary("pg_restore"), "--file=-", tmp_path / f"{name}.dump"]
        dumped = subprocess.run(restore, capture_output=True, check=True).stdout
        assert b"COPY public." in dumped
        assert [secret for secret in SECRETS if secret.encode() in dumped] == [], name


def test_secrets_are_secret_fields(guarded: Guarded) -> None:
    documents = guarded.send("POST", "block_documents/filter", include_secrets=False)
    shown = {document["name"]: document["data"] for document in documents}
    assert set(shown["extract"]["environment"].values()) == {"********"}
    assert set(shown["tdp-postgres"]["connection_info"]["password"]) == {"*"}
    assert not any(secret in json.dumps(documents) for secret in SECRETS)


def test_a_stage_gets_a_clean_environment(guarded: Guarded) -> None:
    (written,) = guarded.settings.work.rglob("extract.env")
    variables = dict(line.split("=", 1) for line in written.read_text().splitlines())
    assert variables["STAGE_TOKEN"] == TOKEN
    assert variables.keys() - INHERITED - SHELLS_OWN == {"TDP_WORK_LOCK"}  # the mark of its process tree


def test_files_are_accessible_to_their_owner_only(guarded: Guarded, tmp_path: Path) -> None:
    assert guarded.tdp("dump", str(tmp_path / "dump")).returncode == 0
    places = [guarded.settings.root, tmp_path / "dump"]
    paths = [path for place in places for path in (place, *place.rglob("*")) if not path.is_symlink()]
    assert {"inbox", "sources", "work", "logs", "prefect", "services.json"} <= {path.name for path in paths}
    modes = {str(path): stat.filemode(path.stat().st_mode) for path in paths}
    assert {path: mode for path, mode in modes.items() if mode[4:] != "------"} == {}
