"""Commands that operate on the databases: psql, migrate, dump, restore."""

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
from flows.cli.screen import echo
from flows.errors import ServiceFailed, in_one_line
from flows.ledger.connection import connection
from flows.ledger.schema_version import migrate as migrate_schema
from flows.settings import Settings

app = typer.Typer()


@app.command(
    add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def psql(context: typer.Context) -> None:
    """Open psql on the database. Arguments are passed to psql: tdp psql -c 'SELECT …'."""
    settings = services.ensure_ledger(Settings())
    argv, env = _client_command("psql", settings.database)
    os.execve(argv[0], [*argv, *context.args], env)  # noqa: S606 - no shell wanted


@app.command()
def migrate(
    revision: Annotated[
        str, typer.Argument(help="Target revision: head (the newest) or an older one.")
    ] = "head",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation of a downgrade.")] = False,
) -> None:
    """Migrate the schema to this release, as `tdp up` does, or down to an older revision.

    Downgrade the schema before you install the older release.
    """
    if revision != "head" and not yes:
        typer.confirm(
            "This drops the columns and tables that newer releases added. `tdp dump` saves them. Continue?",
            abort=True,
        )
    settings = Settings()
    with _postgres(settings):
        before, after = migrate_schema(settings.database, revision)
    same = before == after
    echo("Nothing to change." if same else f"schema: {before or 'none'} -> {after or 'none'}")


@app.command()
def dump(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Folder to write into.")],
) -> None:
    """Dump the ledger's database and Prefect's into two files. Services may run meanwhile."""
    settings = Settings()
    folder.mkdir(parents=True, exist_ok=True)
    with _postgres(settings):
        for file, url in _databases(settings, folder).items():
            _run_client("pg_dump", url, "--format=custom", "--file", str(file))
            echo(f"{file}: {file.stat().st_size:,} bytes")


@app.command()
def restore(
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Folder that `tdp dump` wrote.")
    ],
) -> None:
    """Restore both databases from a dump. Stop all services first. The old databases are renamed."""
    settings = Settings()
    with services.only_postgres(settings):
        admin = make_dsn(settings.database, dbname="postgres")
        names = {}
        for file, url in _databases(settings, folder).items():
            if not file.exists():
                raise ServiceFailed(f"{file} does not exist. Specify a folder that `tdp dump` wrote.")
            name = str(parse_dsn(url)["dbname"])
            names[name] = f"{name}_restored"
            _create(admin, names[name])
            options = ["--no-owner", "--no-privileges", "--exit-on-error", str(file)]
            _run_client("pg_restore", make_dsn(url, dbname=names[name]), *options)
        for line in _rename(admin, names):
            echo(line)


def _databases(settings: Settings, folder: Path) -> dict[Path, str]:
    """Return the dump file and the URL of each database."""
    return {
        folder / "tdp.dump": settings.database,
        folder / "prefect.dump": make_dsn(settings.database, dbname=settings.prefect_database),
    }


@contextmanager
def _postgres(settings: Settings) -> Iterator[None]:
    """Use the running PostgreSQL, or run it for the duration of the block."""
    if services.running(settings):
        yield
    else:
        with services.only_postgres(settings):
            yield


def _create(admin: str, name: str) -> None:
    """Create an empty database; drop one that an interrupted restore left behind."""
    with connection(admin, autocommit=True) as opened, opened.cursor() as cursor:
        cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
        cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def _rename(admin: str, names: dict[str, str]) -> Iterator[str]:
    """Rename all databases in one transaction; the old ones are kept until the next restore."""
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
        raise ServiceFailed(
            f"The databases are in use. Stop every service that uses them and try again: {in_one_line(error)}"
        ) from error
    yield from (f"{name}: restored; the previous database is now {old}" for name, old in kept.items())


def _run_client(program: str, url: str, *arguments: str) -> None:
    argv, env = _client_command(program, url)
    done = subprocess.run([*argv, *arguments], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServiceFailed(f"{program} failed:", *done.stderr.strip().splitlines())


def _client_command(program: str, url: str) -> tuple[list[str], dict[str, str]]:
    """Return the command line of a PostgreSQL client, and its environment."""
    connection = parse_dsn(url)
    # Every user of the machine can read the arguments of a process, so the password is not among them.
    password = connection.pop("password", None)
    env = {**os.environ, "PGPASSWORD": str(password)} if password else dict(os.environ)
    return [str(services.binary(program)), "--dbname", make_dsn("", **connection)], env
