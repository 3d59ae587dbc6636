"""Real services for all tests: one PostgreSQL and, if a test needs it, one Prefect server per run."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, LiteralString

import certifi
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from flows import services
from flows.cli.startup import collect_seldom
from flows.ledger.schema_version import migrate
from flows.settings import Settings

#: With several processes (pytest -n), the tests whose paths begin with one of these run in the same process,
#: in their order, because they share what is slow to start. The processes begin with these, the longest
#: first; what is not named here is short, and any process runs it.
_GROUPS = (
    "tests/chaos/test_faults.py",
    "tests/chaos/",
    "tests/acceptance/",
    "tests/integration/test_backfill",
    "tests/integration/test_recover.py",
    "tests/bot/test_acceptance.py",
    "tests/integration/test_gate",
    "tests/integration/test_flows",
    "tests/integration/test_arrival.py",
    "tests/integration/test_security.py",
    "tests/unit/test_corpus.py",
    "tests/integration/test_apply.py",
    "tests/integration/test_maintain.py",
    "tests/integration/test_monitor",
    "tests/integration/test_verify.py",
    "tests/integration/test_automations.py",
)
#: Statements that make each document and each limit of the server what it was when it was new.
_NEW: list[tuple[LiteralString, Sequence[Any]]] = []
_DOCUMENTS: LiteralString = "SELECT block_schema_id, data::text, id FROM block_document"
_CHANGE_DOCUMENT: LiteralString = "UPDATE block_document SET block_schema_id = %s, data = %s WHERE id = %s"
_LIMITS: LiteralString = """
SELECT active, "limit", 0, name FROM concurrency_limit_v2 WHERE name IN ('extract', 'convert', 'store')
"""
_CHANGE_LIMIT: LiteralString = """
UPDATE concurrency_limit_v2 SET active = %s, "limit" = %s, active_slots = %s WHERE name = %s
"""
REAPER = Path(__file__).parent / "programs" / "reaper.py"
SAMPLES = Path(os.environ.get("TDP_SAMPLES", Path(__file__).parents[2] / "shared" / "samples"))


# Prefect reads the environment at import: remove variables of another installation in the developer's shell.
for _name in [name for name in os.environ if name.startswith(("PREFECT_", "TDP_", "BATCH_SIZE"))]:
    if _name not in ("TDP_SAMPLES", "TDP_BOT_REQUESTS"):  # those are for the tests
        del os.environ[_name]

# These processes have Prefect and all tests in memory.
collect_seldom()

# Tests start the runs that they examine; the tests of arrivals set another value.
os.environ["TDP_LOOK_SECONDS"] = "0"


def _has_space(folder: Path) -> bool:
    """Return whether the files of all tests fit into the folder, and programs in it can be run."""
    if not folder.is_dir() or os.statvfs(folder).f_flag & os.ST_NOEXEC:
        return False
    return shutil.disk_usage(folder).free > 4 * 1024**3


# Each test creates a database of 450 files, and often others; pytest uses this setting, too.
_MEMORY = Path("/dev/shm")  # noqa: S108 - the folders in it are private
if _has_space(_MEMORY):
    tempfile.tempdir = str(_MEMORY)

# Each client reads these certificates, all of them for 18 ms, and uses none: no server here has TLS.
_CERTIFICATE = tempfile.NamedTemporaryFile("w", suffix=".pem")  # noqa: SIM115 - until the end of the process
_CERTIFICATE.write("".join(certifi.contents().partition("-----END CERTIFICATE-----")[:2]))
_CERTIFICATE.flush()
os.environ["SSL_CERT_FILE"] = _CERTIFICATE.name

# A shell's background job ignores SIGINT, and its child processes would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _group(nodeid: str) -> str | None:
    """Return what the test runs together with, if anything."""
    return next((start for start in _GROUPS if nodeid.startswith(start)), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest first, if several processes are there to share the work."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        turns = {group: turn for turn, group in enumerate((*_GROUPS, None))}
        items.sort(key=lambda item: turns[_group(item.nodeid)])


@pytest.hookimpl(optionalhook=True)  # there may be no xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share the work by groups. (The marks that xdist has for this are not read under pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid) or nodeid

    config.option.loadscopereorder = False
    return ByGroup(config, log)


@pytest.fixture(autouse=True)
def ordinary_umask() -> Iterator[None]:
    """Undo the umask of stages that an earlier test ran in this process."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def postgres(open_folder: Path) -> Iterator[str]:
    """URL (libpq) of the admin database of a PostgreSQL of our own."""
    settings = Settings(home=open_folder / "postgres")
    with services.postgres(settings):
        url = settings.embedded_url.replace("/tdp?", "/postgres?")
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET fsync = off")  # nothing here outlives the tests
            admin.execute("SELECT pg_reload_conf()")
        yield url


@pytest.fixture(scope="session")
def ledger_template(postgres: str) -> str:
    """Name of a migrated, empty database to clone."""
    services.ensure_database(postgres, "template_ledger")
    migrate(postgres.replace("/postgres?", "/template_ledger?"))
    return "template_ledger"


@pytest.fixture
def database_url(postgres: str, ledger_template: str) -> Iterator[str]:
    """URL (libpq) of a new, migrated database for this test only."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres, autocommit=True) as admin:
        # By the default strategy all pages would go through the write-ahead log.
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {ledger_template} STRATEGY file_copy")
        yield postgres.replace("/postgres?", f"/{name}?")
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def open_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for homes with a PostgreSQL; the next pytest of this user closes pytest's own to its user.

    However this process ends, what it has started for a home here or in pytest's folder ends too.
    """
    with tempfile.TemporaryDirectory(prefix="tdp-test-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, REAPER, f"{folder}/", f"{tmp_path_factory.getbasetemp()}/"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):
            yield Path(folder)


@pytest.fixture
def samples() -> Path:
    """The folder of real exports; tests that need it are skipped where it is absent."""
    if not SAMPLES.is_dir():
        pytest.skip(f"no real exports at {SAMPLES}: set TDP_SAMPLES")
    return SAMPLES


@pytest.fixture(scope="session")
def prefect_server(postgres: str, open_folder: Path) -> Iterator[Settings]:
    """Settings of an installation with a real Prefect server on the test PostgreSQL and a free port."""
    settings = Settings(
        home=open_folder / "installation",
        database_url=SecretStr(postgres),
        prefect_database="prefect",
        server_port=services.free_port(),
    )
    services.ensure_database(postgres, settings.prefect_database)
    with services.prefect_server(settings):
        yield settings
        _flush_queues()


@pytest.fixture
def installation(
    prefect_server: Settings, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """Settings of an installation for flow runs: own home and database, initial limits and blocks.

    All tests share the Prefect server; the environment of this process and its children refers to it.
    """
    from prefect.settings import temporary_settings

    settings = prefect_server.model_copy(update={"home": tmp_path, "database_url": SecretStr(database_url)})
    environment = services.environment(settings)
    environment["PREFECT_HOME"] = str(prefect_server.prefect_home)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with temporary_settings({"api.url": environment["PREFECT_API_URL"], "home": prefect_server.prefect_home}):
        _as_new(settings)
        _forget_leases(prefect_server)
        yield settings
        _flush_queues()


def _as_new(settings: Settings) -> None:
    """Apply limits and blocks; from the second test on, undo what the tests before have done to them.

    By SQL: the requests with which `tdp apply` looks at all of them would take half a second for each test.
    """
    from block_documents import write_database

    url = make_conninfo(settings.database, dbname=settings.prefect_database)
    with psycopg.connect(url, autocommit=True) as server:
        # Audits read the logs, the monitor reads runs and workers: those of other tests are not theirs.
        for table in ("log", "flow_run", "worker"):
            server.execute(f"DELETE FROM {table}")  # noqa: S608 - names from above
        if not (_NEW and all(server.execute(change, values).rowcount for change, values in _NEW)):
            asyncio.run(_apply(settings))
            _NEW[:] = [(_CHANGE_DOCUMENT, row) for row in server.execute(_DOCUMENTS)]
            _NEW.extend((_CHANGE_LIMIT, row) for row in server.execute(_LIMITS))
    write_database(settings.database)


def _forget_leases(settings: Settings) -> None:
    """Remove the leases that earlier tests have left, with what they killed: at its end, the server would
    subtract each from the slots that a later test counts."""
    for lease in (settings.prefect_home / "concurrency_leases").glob("*.json"):
        lease.unlink(missing_ok=True)


async def _apply(settings: Settings) -> None:
    """Create limits and blocks, and save each block as a new installation has it."""
    from prefect.client.orchestration import get_client

    from blocks import PIPELINE, PipelineConfig, StageCommand
    from deployments.apply import apply_basics

    async with get_client() as client:
        await apply_basics(settings)
        await PipelineConfig.seed(settings).asave(PIPELINE, overwrite=True, client=client)
        for stage in ("extract", "convert", "store"):
            await StageCommand().asave(stage, overwrite=True, client=client)


def _flush_queues() -> None:
    """Let Prefect's background threads deliver logs and events before the server stops."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=10)
