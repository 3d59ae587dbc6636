"""Real services for all tests: one PostgreSQL and, if a test needs it, one Prefect server per run."""

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

#: The data of each block document in its initial state.
_INITIAL: dict[str, dict[str, Any]] = {}
SAMPLES = Path(os.environ.get("TDP_SAMPLES", Path(__file__).parents[2] / "shared" / "samples"))


# Prefect reads the environment at import: remove variables of another installation in the developer's shell.
for _name in [name for name in os.environ if name.startswith(("PREFECT_", "TDP_", "BATCH_SIZE"))]:
    del os.environ[_name]

# A shell's background job ignores SIGINT, and its child processes would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL (libpq) of the admin database of a PostgreSQL server for the tests."""
    # Not below pytest's folder: the next pytest of this user makes that inaccessible to PostgreSQL's user.
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
    """URL (libpq) of a new, migrated database for this test only."""
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
    """Settings of an installation with a real Prefect server on the test PostgreSQL and a free port."""
    settings = Settings(
        home=tmp_path_factory.mktemp("installation"),
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
        asyncio.run(_reset(settings))
        yield settings


async def _reset(settings: Settings) -> None:
    """Apply limits and blocks, and reset changes that earlier tests made to them."""
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
            if document.data != _INITIAL.get(name):  # saving one takes a quarter of a second
                await block.asave(name, overwrite=True, client=client)
                _INITIAL[name] = (await client.read_block_document_by_name(*place)).data
        for stage in stages:
            await client.update_global_concurrency_limit(stage, GlobalConcurrencyLimitUpdate(active_slots=0))


def _flush_queues() -> None:
    """Let Prefect's background threads deliver logs and events before the server stops."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=10)
