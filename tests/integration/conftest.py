"""Fixtures of several tests."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psycopg2
import pytest
from inboxes import NOBODY
from known_times import add_two_batches
from ledger_rows import column
from listener import Listener
from typer.testing import CliRunner, Result

from flows import services
from flows.ledger.session import Session, connect
from flows.settings import Settings

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.responses import DeploymentResponse


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[Session]:
    async with await connect(database_url, "test") as session:
        yield session


@pytest.fixture
def ledger(database_url: str) -> Iterator[Any]:
    """A connection with autocommit, as reports and monitor use it."""
    connection = psycopg2.connect(database_url)
    connection.autocommit = True
    yield connection
    connection.close()


@pytest.fixture
def two_batches(ledger: Any) -> Any:
    """The ledger with the runs of :func:`add_two_batches`."""
    add_two_batches(ledger)
    return ledger


@pytest.fixture
def tdp(database_url: str, tmp_path: Path) -> Callable[..., Result]:
    """Runs a command that reports in this process, without a Prefect server."""
    from flows.cli.reports import app

    env = {
        "TDP_DATABASE_URL": database_url,
        "TDP_HOME": str(tmp_path),
        "TDP_SERVER_PORT": "1",
        "COLUMNS": "200",
    }
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args], env=env)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    path = tmp_path / "inbox"
    path.mkdir()
    return path


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory in which every user may create files, with an inbox of that kind."""
    with tempfile.TemporaryDirectory(prefix="tdp-shared-") as folder:
        (Path(folder) / "inbox").mkdir()
        for path in (Path(folder), Path(folder, "inbox")):
            path.chmod(0o777)
        yield Path(folder)


@pytest.fixture
def unprivileged() -> Iterator[Callable[[], None]]:
    """A function from whose call on the test runs as a user without capabilities."""
    yield lambda: os.seteuid(NOBODY)
    os.seteuid(0)


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
async def copying_stages(installation: Settings) -> None:
    """Stages whose output is a copy of their input."""
    from stage_commands import COPY, command  # it imports Prefect, which most tests here do without

    for stage in ("extract", "convert", "store"):
        await command(stage, COPY)


@pytest.fixture
def batches(installation: Settings) -> list[str]:
    """The ids of forty batches without files."""
    created = (
        "INSERT INTO batch_processing (file_count) SELECT 0 FROM generate_series(1, 40) RETURNING batch_id"
    )
    return column(installation, created)


@pytest.fixture
async def client(installation: Settings) -> AsyncIterator[PrefectClient]:
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        yield client


@pytest.fixture(scope="module")
def deployments_of_module(prefect_server: Settings) -> Iterator[None]:
    """Remove the deployments after the last test of a module: tests of other modules share the server."""
    yield
    url = f"{services.server_url(prefect_server)}/api/deployments"
    with httpx.Client(timeout=30) as http:
        for found in http.post(f"{url}/filter", json={}).raise_for_status().json():
            http.delete(f"{url}/{found['id']}").raise_for_status()


@pytest.fixture
async def deployments(
    deployments_of_module: None, installation: Settings, client: PrefectClient
) -> list[DeploymentResponse]:
    """The deployments, without their schedules; they stay for the other tests of the module."""
    from deployments.apply import apply

    if not await client.read_deployments():
        await apply(installation)
    found = await client.read_deployments()
    for deployment in found:
        for schedule in deployment.schedules:
            await client.update_deployment_schedule(deployment.id, schedule.id, active=False)
    return found


@pytest.fixture
async def programs(installation: Settings) -> Path:
    """The folder with the files that steer the stages."""
    from steered_stages import steer

    return await steer(installation)


@pytest.fixture
async def loaded(installation: Settings, programs: Path) -> list[str]:
    """Three completed batches of two files each."""
    from steered_stages import load

    return await load(installation)
