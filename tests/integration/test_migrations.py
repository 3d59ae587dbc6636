"""Migrations up and down with rows in the tables; and dump and restore."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from alembic.script import Script, ScriptDirectory

from flows import ledger, services
from flows.batches.runtime import current_runtime
from flows.errors import SchemaMismatch
from flows.ledger import schema_version
from flows.ledger.schema_version import check_schema, migrate
from flows.monitor.health import Monitor
from flows.settings import Settings

TDP = [sys.executable, "-m", "flows.cli"]
#: The newest first.
REVISIONS = list(ScriptDirectory(str(Path(ledger.__file__).parent / "migrations")).walk_revisions())
NEWEST = REVISIONS[0].revision
ROWS = """
INSERT INTO source_files (sha256, name, size_bytes, stored_path) VALUES (repeat('a', 64), 'a.zip', 7, '/a');
INSERT INTO receipts (source_id, origin, duplicate) SELECT source_id, '/inbox/a.zip', false FROM source_files;
INSERT INTO batch_processing (status, file_count, extract_duration_sec) VALUES ('COMPLETED', 1, 1.5);
INSERT INTO batch_files (batch_id, source_id, position, status)
SELECT batch_id, source_id, 0, 'STORED' FROM batch_processing, source_files;
INSERT INTO stage_runs (batch_id, stage, attempt, host, pid, fenced_at, started_at, finished_at, outcome)
SELECT batch_id, stage, 1, 'here', 7, now(), now(), now(), 'COMPLETED' FROM batch_processing, stages;
INSERT INTO chats (chat_key, form, revision, source_id) VALUES ('user1', 'json', '1', 1);
INSERT INTO messages (chat_key, message_id, type, text, revision, source_id)
SELECT 'user1', number, 'message', 'привет ' || number, '1', 1 FROM generate_series(1, 1000) number;
"""
TABLES = ["source_files", "receipts", "batch_processing", "batch_files", "stage_runs", "chats", "messages"]


def test_revisions_are_those_that_alembic_reads() -> None:
    assert schema_version._revisions() == [script.revision for script in REVISIONS]


@pytest.fixture
def empty(postgres: str) -> Iterator[str]:
    """URL (libpq) of an empty database."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    services.ensure_database(postgres, name)
    yield postgres.replace("/postgres?", f"/{name}?")
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def filled(database_url: str) -> str:
    """URL (libpq) of a database with some rows in it."""
    with psycopg.connect(database_url) as connection:
        connection.execute(ROWS)
    return database_url


def contents(url: str) -> dict[str, list[str]]:
    with psycopg.connect(url) as connection:
        query = "SELECT to_jsonb(t)::text FROM {} t ORDER BY 1"
        return {name: [row[0] for row in connection.execute(query.format(name))] for name in TABLES}


def schema(url: str) -> str:
    """The whole schema as SQL."""
    # Without this option pg_dump writes a random key.
    command = [services.binary("pg_dump"), "--schema-only", "--restrict-key=x", "--dbname", url]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def set_revision(url: str, revision: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE tdp_schema_version SET version_num = %s", [revision])


def check(url: str) -> None:
    with psycopg.connect(url) as connection:
        check_schema(connection)


def tdp(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"TDP_HOME": str(home)} | variables
    return subprocess.run([*TDP, *arguments], env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("revision", REVISIONS, ids=lambda revision: revision.revision)
def test_each_migration_goes_down_and_up_with_rows(filled: str, revision: Script) -> None:
    before = schema(filled), contents(filled)
    below = revision.down_revision or "base"
    assert migrate(filled, below) == (NEWEST, revision.down_revision)
    assert migrate(filled) == (revision.down_revision, NEWEST)
    after = schema(filled), contents(filled)
    # Before the first revision there is no table that could keep rows.
    assert after == (before if below != "base" else (before[0], {table: [] for table in TABLES}))


def test_base_leaves_no_relation(filled: str) -> None:
    migrate(filled, "base")
    with psycopg.connect(filled) as connection:
        query = (
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " AND relname NOT LIKE 'tdp_schema_version%'"
        )
        assert connection.execute(query).fetchall() == []


def test_concurrent_migrations_wait_for_each_other(empty: str) -> None:
    start = threading.Barrier(4)
    ends: list[tuple[str | None, str | None]] = []

    def run() -> None:
        start.wait()
        ends.append(migrate(empty))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends, key=str) == [(NEWEST, NEWEST)] * 3 + [(None, NEWEST)]


def test_a_schema_of_another_release_is_reported(empty: str) -> None:
    with pytest.raises(
        SchemaMismatch, match=f"has no tables of this project, .* needs schema {NEWEST}. Run `tdp migrate`"
    ):
        check(empty)
    migrate(empty)
    check(empty)
    migrate(empty, "base")
    with pytest.raises(SchemaMismatch, match="has no tables of this project"):
        check(empty)
    migrate(empty)
    set_revision(empty, "9999")
    for use in (check, migrate):
        with pytest.raises(SchemaMismatch, match="schema 9999 of a newer release"):
            use(empty)
    with pytest.raises(SchemaMismatch, match="0815"):
        set_revision(empty, NEWEST)
        migrate(empty, "0815")


@pytest.mark.parametrize(
    ("revision", "reason"), [("9999", "of a newer release"), (None, "no tables of this project")]
)
@pytest.mark.parametrize("command", [["status"], ["verify"]])
def test_commands_report_a_wrong_schema(
    empty: str, tmp_path: Path, command: list[str], revision: str | None, reason: str
) -> None:
    if revision:
        migrate(empty)
        set_revision(empty, revision)
    done = tdp(tmp_path, *command, TDP_DATABASE_URL=empty)
    assert done.returncode == 1
    assert done.stderr.startswith("error: The database has")
    assert reason in done.stderr


async def test_runs_and_the_monitor_report_a_newer_schema(installation: Settings) -> None:
    set_revision(installation.database, "9999")
    with pytest.raises(SchemaMismatch, match="of a newer release"):
        await current_runtime()
    postgres = Monitor(installation).health().components["postgres"]
    assert (postgres.ok, "of a newer release" in postgres.detail) == (False, True)


def test_a_dump_restores_what_a_downgrade_dropped(open_folder: Path, tmp_path: Path) -> None:
    settings = Settings(home=open_folder / "dumped")
    prefect = settings.database.replace("/tdp?", "/prefect?")
    with services.only_postgres(settings):
        migrate(settings.database)
        with psycopg.connect(settings.database) as ours, psycopg.connect(prefect) as theirs:
            ours.execute(ROWS)
            theirs.execute("CREATE TABLE block_document AS SELECT 7 AS number")
        before = contents(settings.database)

    dumped = tdp(settings.root, "dump", str(tmp_path / "dump"))
    assert (dumped.returncode, len(dumped.stdout.splitlines())) == (0, 2), dumped.stderr
    assert (
        tdp(settings.root, "migrate", "base").returncode == 1
    )  # it asks for confirmation, and stdin is empty
    back = tdp(settings.root, "migrate", "base", "--yes")
    assert back.stdout == f"schema: {NEWEST} -> none\n"
    for _ in range(2):
        restored = tdp(settings.root, "restore", str(tmp_path / "dump"))
        line = "tdp: restored; the previous database is now tdp_before_restore"
        assert line in restored.stdout, restored.stderr
    assert tdp(settings.root, "migrate").stdout == "Nothing to change.\n"

    with services.only_postgres(settings):
        assert contents(settings.database) == before
        with psycopg.connect(prefect) as theirs:
            assert theirs.execute("SELECT number FROM block_document").fetchall() == [(7,)]


def test_restore_is_refused_while_the_database_is_in_use(filled: str, tmp_path: Path) -> None:
    where = {"TDP_DATABASE_URL": filled, "TDP_PREFECT_DATABASE": f"p_{uuid.uuid4().hex[:12]}"}
    tdp(tmp_path, "dump", str(tmp_path / "dump"), **where)
    with psycopg.connect(filled, autocommit=True) as user:
        user.execute("DELETE FROM messages WHERE message_id > 10")
        before = contents(filled)
        refused = tdp(tmp_path, "restore", str(tmp_path / "dump"), **where)
    assert refused.returncode == 1
    assert "error: The databases are in use. Stop every service that uses them" in refused.stderr
    assert contents(filled) == before
    assert tdp(tmp_path, "restore", str(tmp_path / "dump"), **where).returncode == 0
    assert len(contents(filled)["messages"]) == 1000
