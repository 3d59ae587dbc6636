"""The services of a plant, and a new ledger and home in them for each test."""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
from psycopg.rows import dict_row
from pydantic import SecretStr

from flows import services
from flows.ledger.schema_version import migrate
from flows.settings import Settings

STAGES = ("extract", "convert", "store")
EXCLUSIVE = ("extract", "convert")
#: A migrated, empty database to copy.
TEMPLATE = "template_ledger"


def kill(processes: list[psutil.Process]) -> None:
    """Kill processes and all their children, and wait until they are gone."""
    doomed = list(processes)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            doomed += process.children(recursive=True)
    for process in doomed:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(doomed, 10)


class PlantServices:
    """Real services, and the requests that a test sends to them.

    They are shared by all tests; :meth:`renew` creates a new ledger and home for the next one.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self._owner = settings  # the settings of the services; each test has its own ledger and home
        self._services = ExitStack()
        self._server = ExitStack()
        self._others = ExitStack()
        self._http = httpx.Client(timeout=30)  # to make one takes 20 ms of CPU

    def start(self) -> None:
        self.start_postgres()
        services.ensure_database(self._admin, TEMPLATE)
        migrate(self._url(TEMPLATE))
        self.start_server()

    def renew(self, folder: Path) -> None:
        """Use a new ledger and a new home below ``folder``; restart services that are not running."""
        if not self.postgres.is_running() or self.postgres.status() == psutil.STATUS_ZOMBIE:
            self.start_postgres()
        if not self.server.is_running() or self.server.status() == psutil.STATUS_ZOMBIE:
            self.start_server()
        self.folder = folder
        ledger = SecretStr(self.new_ledger())
        self.settings = self._owner.model_copy(update={"home": folder / "home", "database_url": ledger})
        self.settings.prefect_home.mkdir(parents=True)

    def new_ledger(self) -> str:
        """Create a ledger; return its URL (libpq)."""
        name = f"t_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self._admin, autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY file_copy".encode())
        return self._url(name)

    @property
    def _admin(self) -> str:
        return self._url("postgres")

    def _url(self, database: str) -> str:
        return self._owner.embedded_url.replace("/tdp?", f"/{database}?")

    def start_postgres(self) -> None:
        child = self._services.enter_context(services.postgres(self._owner))
        assert child is not None
        self.postgres = child.process

    def start_server(self) -> None:
        self.server = self._server.enter_context(services.prefect_server(self._owner)).process

    def start_worker(self) -> psutil.Popen:
        """Run a worker, with the deployments applied and their schedules paused."""
        self._deploy()
        return self._others.enter_context(services.worker(self.settings)).process

    def start_recovery(self) -> None:
        self._others.enter_context(services.recovery(self.settings))

    def _deploy(self) -> None:
        from prefect.client.orchestration import get_client

        from deployments.apply import apply

        async def deploy() -> None:
            await apply(self.settings)
            async with get_client() as client:
                for deployment in await client.read_deployments():
                    for schedule in deployment.schedules:
                        await client.update_deployment_schedule(deployment.id, schedule.id, active=False)

        with self.client_settings():
            asyncio.run(deploy())

    def kill_server(self) -> None:
        kill([self.server])
        self._server.close()

    def restart_postgres(self, how: signal.Signals, down: float = 0) -> None:
        """Stop PostgreSQL by SIGINT (fast) or SIGQUIT (immediate), and start it again ``down`` s later."""
        self.postgres.send_signal(how)
        self.postgres.wait(30)
        time.sleep(down)
        self.start_postgres()

    def query(self, statement: str, *values: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.settings.database, row_factory=dict_row, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def api(self, method: str, path: str, **body: object) -> Any:
        """Send a request to the server as the Prefect UI does."""
        url = services.environment(self.settings)["PREFECT_API_URL"]
        answer = self._http.request(method, f"{url}/{path}", json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def run_deployment(self, name: str, **parameters: object) -> str:
        """Create a flow run as the UI does; return its id."""
        deployment = self.api("GET", f"deployments/name/{name}")
        path = f"deployments/{deployment['id']}/create_flow_run"
        run: dict[str, Any] = self.api("POST", path, parameters=parameters, state={"type": "SCHEDULED"})
        return str(run["id"])

    def state(self, flow_run_id: str) -> str:
        """Return the name of the flow run's state."""
        return str(self.api("GET", f"flow_runs/{flow_run_id}")["state_name"])

    def client_settings(self) -> AbstractContextManager[Any]:
        """Connect the Prefect clients of this process to the server of the plant."""
        from prefect.settings import temporary_settings

        url = services.environment(self.settings)["PREFECT_API_URL"]
        return temporary_settings({"api.url": url, "home": self.settings.prefect_home})

    def active_slots(self) -> dict[str, int]:
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            limits = [client.read_global_concurrency_limit_by_name(stage) for stage in STAGES]
        return {limit.name: limit.active_slots for limit in limits}

    def leases(self) -> set[Path]:
        """Return the leases that the server has on disk."""
        folder = self._owner.prefect_home / "concurrency_leases"
        return {path for path in folder.glob("*.json") if path.name != "expirations.json"}

    def stop(self) -> None:
        self._others.close()
        self._http.close()
        self._server.close()
        self._services.close()
