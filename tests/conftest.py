"""Real services for every test: one PostgreSQL and, for those that ask, one Prefect server per run."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from flows import services
from flows.ledger.schema_version import migrate
from flows.settings import Settings

#: What the server says of each block when it is as new.
_NEW: dict[str, dict[str, Any]] = {}
SAMPLES = Path(os.environ.get("TDP_SAMPLES", Path(__file__).parents[2] / "shared" / "samples"))


# Prefect reads the environment when it is imported: forget what the developer's shell says of another one.
for _name in [name for name in os.environ if name.startswith(("PREFECT_", "TDP_", "BATCH_SIZE"))]:
    del os.environ[_name]

# A shell's background job ignores Ctrl-C, and so would all that the tests start to stop it by just that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL (libpq) of the admin database of a PostgreSQL of our own."""
    # Not below pytest's own folder: the next pytest of this user closes that to PostgreSQL's user.
    with tempfile.TemporaryDirectory(prefix="tdp-test-", ignore_cleanup_errors=True) as home:
        settings = Settings(home=Path(home))
        with services.postgres(settings):
            yield settings.embedded_url.replace("/tdp?", "/postgres?")


@pytest.fixture(scope="session")
def ledger_template(postgres: str) -> str:
    """Name of a migrated, empty database to clone."""
    services.ensure_database(postgres, "template_ledger")
    migrate(postgres.replace("/postgres?", "/template_ledger?"))
    return "template_ledger"


@pytest.fixture
def database_url(postgres: str, ledger_template: str) -> Iterator[str]:
    """URL (libpq) of a fresh, migrated database that only this test uses."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {ledger_template}")
    yield postgres.replace("/postgres?", f"/{name}?")
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def samples() -> Path:
    """The folder of real exports; tests that need it are skipped where it is absent."""
    if not SAMPLES.is_dir():
        pytest.skip(f"no real exports at {SAMPLES}: set TDP_SAMPLES")
    return SAMPLES


@pytest.fixture(scope="session")
def prefect_server(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of an installation whose real Prefect server, on our PostgreSQL, runs on a free port."""
    settings = Settings(
        home=tmp_path_factory.mktemp("installation"),
        database_url=SecretStr(postgres),
        prefect_database="prefect",
        server_port=services.free_port(),
    )
    services.ensure_database(postgres, settings.prefect_database)
    with services.prefect_server(settings):
        yield settings
        _send_what_is_queued()


@pytest.fixture
def installation(
    prefect_server: Settings, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """Settings of an installation in which flows can run: own home and database, limits and blocks as new.

    All tests of a run share the Prefect server; this process and its children talk to it.
    """
    from prefect.settings import temporary_settings

    settings = prefect_server.model_copy(update={"home": tmp_path, "database_url": SecretStr(database_url)})
    environment = services.environment(settings)
    environment["PREFECT_HOME"] = str(prefect_server.prefect_home)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with temporary_settings({"api.url": environment["PREFECT_API_URL"], "home": prefect_server.prefect_home}):
        asyncio.run(_as_new(settings))
        yield settings


async def _as_new(settings: Settings) -> None:
    """Apply limits and blocks, and undo what tests before have done to them."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate

    from blocks import PIPELINE, PipelineConfig, StageCommand
    from deployments.apply import apply_basics

    stages = ("extract", "convert", "store")
    async with get_client() as client:
        await apply_basics(settings)
        blocks = {PIPELINE: PipelineConfig.seed(settings), **{stage: StageCommand() for stage in stages}}
        for name, block in blocks.items():
            place = name, block.get_block_type_slug()
            document = await client.read_block_document_by_name(*place)
            if document.data != _NEW.get(name):  # to save one takes a quarter of a second
                await block.asave(name, overwrite=True, client=client)
                _NEW[name] = (await client.read_block_document_by_name(*place)).data
        for stage in stages:
            await client.update_global_concurrency_limit(stage, GlobalConcurrencyLimitUpdate(active_slots=0))


def _send_what_is_queued() -> None:
    """Let Prefect's background threads deliver logs and events while the server still listens."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=10)
