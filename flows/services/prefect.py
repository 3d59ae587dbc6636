"""The Prefect server and a worker as child processes with a separate PREFECT_HOME."""

from __future__ import annotations

import http.client
import ipaddress
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from flows.errors import ServiceFailed
from flows.services.processes import Child, child, python
from flows.settings import Settings

WORK_POOL = "tdp"
#: The only place of the Prefect server's settings; systemd and Compose read the file themselves.
_SERVER_SETTINGS = Path(__file__).parents[2] / "deployments" / "prefect-server.env"
_START_SECONDS = 180
_ASYNCPG_NAMES = {"host": "host", "port": "port", "sslmode": "ssl"}


def server_url(settings: Settings) -> str:
    """Return the address of the Prefect server and its UI for clients on this machine."""
    return local_url(settings.server_host, settings.server_port)


def ui_url(settings: Settings) -> str:
    """Return the address of the UI in the version that the server opens by default."""
    return f"{server_url(settings)}/v2"


def local_url(host: str, port: int) -> str:
    """Return the URL for clients on this machine of a server that listens on ``host``."""
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def ensure_authentication(settings: Settings, host: str) -> None:
    """Raise :class:`ServiceFailed` if other machines can reach ``host`` and no auth string is set."""
    if settings.auth_string is None and not is_loopback(host):
        raise ServiceFailed(
            f"Any client that can reach {host} could read and change everything. Set TDP_AUTH_STRING to"
            " user:password to require a login, or listen on 127.0.0.1."
        )


def is_loopback(host: str) -> bool:
    """Return whether only clients on this machine can reach ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def client_environment(settings: Settings) -> dict[str, str]:
    """Return the environment variables with which clients connect to the installation of ``settings``."""
    auth = settings.auth_string
    return {
        **({"PREFECT_API_AUTH_STRING": auth.get_secret_value()} if auth else {}),
        "TDP_HOME": str(settings.root),
        "TDP_DATABASE_URL": settings.database,
        "TDP_SERVER_PORT": str(settings.server_port),
        "TDP_MONITOR_HOST": settings.monitor_host,
        "TDP_MONITOR_PORT": str(settings.monitor_port),
        "PREFECT_HOME": str(settings.prefect_home),
        "PREFECT_API_URL": f"{server_url(settings)}/api",
        # The links that Prefect prints open the version of the UI that "/" opens.
        "PREFECT_UI_URL": ui_url(settings),
        # Prefect's log lines have only the time by default, but a log file has the lines of many days.
        "PREFECT_LOGGING_FORMATTERS_STANDARD_DATEFMT": "%Y-%m-%d %H:%M:%S",
        # If no server responds, a client must fail, not start an ephemeral server on SQLite.
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        # Clients also retry status 500, which the server returns while its database is unavailable.
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
    }


def server_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what ``deployments/prefect-server.env`` sets; a variable of ``environment`` has precedence."""
    named = re.findall(r"^(PREFECT_\w+)=(\S+)$", _SERVER_SETTINGS.read_text(), re.MULTILINE)
    return {name: environment.get(name, value) for name, value in named}


@contextmanager
def prefect_server(settings: Settings) -> Iterator[Child]:
    """Run a Prefect server on the ``prefect`` database; its address is :func:`server_url`.

    Raises :class:`ServiceFailed` if the port is in use, the server does not start, or it would be reachable
    without authentication.
    """
    ensure_authentication(settings, settings.server_host)
    host, port = settings.server_host, settings.server_port
    ensure_free(host, port, "TDP_SERVER_PORT")
    env = client_environment(settings) | server_settings(os.environ)
    if settings.auth_string:
        env["PREFECT_SERVER_API_AUTH_STRING"] = settings.auth_string.get_secret_value()
    env["PREFECT_API_DATABASE_CONNECTION_URL"] = _asyncpg_url(settings)
    # Without this, the UI expects its API on port 4200.
    env["PREFECT_SERVER_UI_API_URL"] = env["PREFECT_API_URL"]
    settings.prefect_home.mkdir(parents=True, exist_ok=True)
    command = python("prefect", "server", "start", "--host", host, "--port", str(port))
    with child(settings, "prefect-server", command, env=env, cwd=settings.root, grace=10) as server:
        server.wait_ready(lambda: _is_healthy(settings), _START_SECONDS)
        yield server


@contextmanager
def worker(settings: Settings) -> Iterator[Child]:
    """Run a process worker on the work pool; at the end of the block its flow runs end first, as Crashed."""
    command = python("prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process")
    # Prefect stores flow code in one directory of /tmp for all users; a second user may not write to it.
    temporary = settings.root / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    env = client_environment(settings) | {"TMPDIR": str(temporary), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    with child(settings, "worker", command, env=env, cwd=settings.root, grace=5) as started:
        try:
            yield started
        finally:
            _end_flow_runs(started.process)


def _end_flow_runs(worker: psutil.Process) -> None:
    """Terminate the flow runs of the worker; the UI would show killed ones as Running until recovery."""
    with suppress(psutil.NoSuchProcess):
        runs = worker.children()
        for run in runs:
            run.terminate()
        psutil.wait_procs(runs, timeout=10)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port on which no process listens now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def ensure_free(host: str, port: int, variable: str) -> None:
    """Raise :class:`ServiceFailed`, which names the ``variable`` to set, if the port is in use."""
    if not is_free(host, port):
        raise ServiceFailed(
            f"Port {port} on {host} is in use. Set {variable} to a free port, or, if an installation in "
            "another folder uses it, TDP_HOME to its home."
        )


def is_free(host: str, port: int) -> bool:
    """Return whether a server could listen on this port."""
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, proto) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError:
            return False
    return True


def _asyncpg_url(settings: Settings) -> str:
    """Return the URL of the server's database; asyncpg knows few libpq parameters, under other names."""
    from sqlalchemy import make_url  # late: most commands start no server

    url = make_url(settings.database)
    query = {_ASYNCPG_NAMES[name]: value for name, value in url.query.items() if name in _ASYNCPG_NAMES}
    url = url.set(drivername="postgresql+asyncpg", database=settings.prefect_database, query=query)
    return url.render_as_string(hide_password=False)


def _is_healthy(settings: Settings) -> bool:
    connection = http.client.HTTPConnection(server_url(settings).removeprefix("http://"), timeout=5)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
