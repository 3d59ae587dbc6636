"""Commands on the databases themselves: psql, migrate, dump, restore."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import psycopg2.errors
import typer
from psycopg2 import sql
from psycopg2.extensions import make_dsn, parse_dsn

from flows import services
from flows.errors import ServiceFailed
from flows.ledger.connection import connection
from flows.ledger.schema_version import migrate as migrate_schema
from flows.settings import Settings

app = typer.Typer()


@app.command(
    add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def psql(context: typer.Context) -> None:
    """Open psql on the database, or pass it arguments: tdp psql -c 'SELECT …'."""
    settings = Settings()
    if settings.is_embedded and services.running(settings) is None:
        raise ServiceFailed(f"Nothing runs in {settings.root}. Start it with `tdp up`.")
    argv, env = _client("psql", settings.database)
    os.execve(argv[0], [*argv, *context.args], env)  # noqa: S606 - no shell wanted


@app.command()
def migrate(
    revision: Annotated[str, typer.Argument(help="Where to: the newest, or an older one.")] = "head",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before going back.")] = False,
) -> None:
    """Bring the schema to this release, as `tdp up` does, or back before an older release is installed."""
    if revision != "head" and not yes:
        typer.confirm("What newer releases added is dropped; `tdp dump` keeps it. Go on?", abort=True)
    settings = Settings()
    with _postgres(settings):
        before, after = migrate_schema(settings.database, revision)
    same = before == after
    typer.echo("Nothing to change." if same else f"schema: {before or 'none'} -> {after or 'none'}")


@app.command()
def dump(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Folder to write into.")],
) -> None:
    """Write our database and Prefect's into two files, while work goes on or not."""
    settings = Settings()
    folder.mkdir(parents=True, exist_ok=True)
    with _postgres(settings):
        for file, url in _databases(settings, folder).items():
            _call("pg_dump", url, "--format=custom", "--file", str(file))
            typer.echo(f"{file}: {file.stat().st_size:,} bytes")


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="What `tdp dump` wrote.")],
) -> None:
    """Put both databases back to a dump; nothing may use them. What they held is kept beside them."""
    settings = Settings()
    with services.only_postgres(settings):
        admin = make_dsn(settings.database, dbname="postgres")
        names = {}
        for file, url in _databases(settings, folder).items():
            if not file.exists():
                raise ServiceFailed(f"There is no {file}: name a folder that `tdp dump` wrote.")
            name = str(parse_dsn(url)["dbname"])
            names[name] = f"{name}_restored"
            _create(admin, names[name])
            options = ["--no-owner", "--no-privileges", "--exit-on-error", str(file)]
            _call("pg_restore", make_dsn(url, dbname=names[name]), *options)
        for line in _swap(admin, names):
            typer.echo(line)


def _databases(settings: Settings, folder: Path) -> dict[Path, str]:
    """Return file and URL of each database."""
    return {
        folder / "tdp.dump": settings.database,
        folder / "prefect.dump": make_dsn(settings.database, dbname=settings.prefect_database),
    }


@contextmanager
def _postgres(settings: Settings) -> Iterator[None]:
    """Have PostgreSQL answer: as it runs, or for the duration."""
    if services.running(settings):
        yield
    else:
        with services.only_postgres(settings):
            yield


def _create(admin: str, name: str) -> None:
    """Create an empty database; one that an interrupted restore left is dropped."""
    with connection(admin, autocommit=True) as opened, opened.cursor() as cursor:
        cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
        cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def _swap(admin: str, names: dict[str, str]) -> Iterator[str]:
    """Give each database its new name, all or none, and keep the old ones until the next restore."""
    kept = {name: f"{name}_before_restore" for name in names}
    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
    try:
        with connection(admin, autocommit=True) as opened, opened.cursor() as cursor:
            for old in kept.values():
                cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(old)))
            opened.autocommit = False
            for name, restored in names.items():
                cursor.execute(rename.format(*map(sql.Identifier, (name, kept[name]))))
                cursor.execute(rename.format(*map(sql.Identifier, (restored, name))))
            opened.commit()
    except psycopg2.errors.ObjectInUse as error:
        raise ServiceFailed(f"Stop every service that uses the databases first: {error}") from error
    yield from (f"{name}: restored; what it held is in {old}" for name, old in kept.items())


def _call(program: str, url: str, *arguments: str) -> None:
    argv, env = _client(program, url)
    done = subprocess.run([*argv, *arguments], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServiceFailed(f"{program} failed: {done.stderr.strip()}")


def _client(program: str, url: str) -> tuple[list[str], dict[str, str]]:
    """Return the command of a client of PostgreSQL, and its environment."""
    connection = parse_dsn(url)
    # Arguments can be read by every user of the machine.
    password = connection.pop("password", None)
    env = {**os.environ, "PGPASSWORD": str(password)} if password else dict(os.environ)
    return [str(services.binary(program)), "--dbname", make_dsn("", **connection)], env
