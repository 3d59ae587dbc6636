"""The role tdp_reader sees the data, and neither changes it nor sees the ledger."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from chat_tables import run_tdp
from converted import Export, store, write
from psycopg import sql
from psycopg.conninfo import make_conninfo

from deployments import reader as role
from deployments.reader import FOR_COMMANDS, READABLE, apply_reader
from flows.errors import AccessDenied
from flows.ledger.schema_version import migrate

ANALYSIS = Path(role.__file__).with_name("ANALYSIS.md")


@pytest.fixture
def reader(database_url: str, postgres: str) -> Iterator[str]:
    """URL (libpq) of the database for the role; the role is removed afterwards."""
    assert apply_reader(database_url, login=True)
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("ALTER ROLE tdp_reader LOGIN")  # tests of external servers may have created it before
    yield make_conninfo(database_url, user="tdp_reader")
    drop(database_url)


def drop(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("DROP OWNED BY tdp_reader")
        owner.execute("DROP ROLE tdp_reader")
        for (name,) in owner.execute("SELECT datname FROM pg_database WHERE datallowconn").fetchall():
            owner.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO PUBLIC").format(sql.Identifier(name)))


def test_the_reader_reads_the_data(reader: str) -> None:
    with psycopg.connect(reader) as session:
        for name in READABLE:
            assert session.execute(f"SELECT count(*) FROM {name}").fetchone() == (0,)  # noqa: S608 - ours


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM batch_processing",
        "SELECT * FROM source_files",
        "SELECT * FROM prefect_server",
        "SET default_transaction_read_only = off; DELETE FROM messages",
        "SET default_transaction_read_only = off; CREATE TABLE mine ()",
        "SET default_transaction_read_only = off; CREATE TEMPORARY TABLE mine ()",
        "SET default_transaction_read_only = off; SELECT lo_create(0)",
        "SELECT pg_advisory_lock(1, 2)",
        "SELECT pg_try_advisory_xact_lock_shared(1)",
    ],
)
def test_the_reader_sees_no_other_table_and_changes_nothing(reader: str, statement: str) -> None:
    with (
        psycopg.connect(reader, autocommit=True) as session,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        for each in statement.split(";"):
            session.execute(each.encode())


def test_it_writes_nothing_by_default(reader: str) -> None:
    with psycopg.connect(reader) as session, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        session.execute("CREATE TEMPORARY TABLE mine ()")


def test_commands_that_read_messages_work(reader: str, database_url: str, tmp_path: Path) -> None:
    for number in (1, 2):
        chat = Export(number, f"channel{number}", "News", [(1, 1, "some text")])
        store(database_url, write(tmp_path / str(number), chat))
        if number == 1:
            assert run_tdp(database_url, "search", "--index").exit_code == 0
    as_reader = f"{database_url.replace('postgres@', 'tdp_reader@')}"
    assert len(json.loads(run_tdp(as_reader, "search", "some", "--json").stdout)["hits"]) == 2
    for command in (["export", "-"], ["export", "-", "--what", "senders"], ["stats", "--chat", "channel1"]):
        done = run_tdp(as_reader, *command)
        assert done.exit_code == 0, done.exception


@pytest.mark.parametrize(
    "command",
    [
        "status",
        "chat channel1",
        "export - --what timings",
        "search --index",
        "search --rebuild",
        "hold --all",
        "resume batch_000001",
        "migrate 0016 --yes",
        "files drop 1 --yes",
        "files return 1 .",
        "verify",
    ],
)
def test_every_other_command_names_the_role_and_what_to_do(
    reader: str, database_url: str, tmp_path: Path, command: str
) -> None:
    store(database_url, write(tmp_path / "1", Export(1, "channel1", "News", [(1, 1, "some text")])))
    as_reader = f"{database_url.replace('postgres@', 'tdp_reader@')}"
    denied = run_tdp(as_reader, *command.split()).exception
    assert isinstance(denied, AccessDenied)
    assert str(denied).startswith("the database role tdp_reader may not do that: ")
    assert "need the role of `tdp up`" in str(denied)


def test_the_reader_may_connect_to_no_other_database_of_the_embedded_server(
    reader: str, writer: str, database_url: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("GRANT CONNECT ON DATABASE postgres TO PUBLIC")  # as before that release
    assert apply_reader(database_url, login=False) == []
    assert apply_reader(database_url, login=True) == ["role PUBLIC: may no longer connect to postgres"]
    for name in ("postgres", "template1"):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(make_conninfo(reader, dbname=name))
    psycopg.connect(make_conninfo(writer, dbname="postgres")).close()


def test_a_second_time_changes_nothing(reader: str, database_url: str) -> None:
    assert apply_reader(database_url, login=True) == []


def test_a_view_that_a_migration_created_again_is_readable_again(reader: str, database_url: str) -> None:
    migrate(database_url, "0007")
    migrate(database_url)
    (line,) = apply_reader(database_url, login=True)
    assert "topics" in line
    assert "chats" not in line.split()


@pytest.fixture
def writer(database_url: str) -> Iterator[str]:
    """URL of the database for a role that is not a superuser and may change every table."""
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("CREATE ROLE writer LOGIN")
        admin.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO writer")
        admin.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO writer")
    yield make_conninfo(database_url, user="writer")
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("DROP OWNED BY writer")
        admin.execute("DROP ROLE writer")


def test_roles_that_write_keep_their_locks_and_temporary_tables(
    writer: str, reader: str, database_url: str, tmp_path: Path
) -> None:
    assert apply_reader(database_url, login=True) == []
    assert store(writer, write(tmp_path / "in", Export(1, "channel1", "News", [(1, 1, "text")]))) == 1
    with psycopg.connect(writer) as session:
        session.execute("SELECT pg_advisory_lock(1, 2)")


def test_an_owner_without_superuser_reports_what_it_may_not_revoke(
    writer: str, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(database_url, autocommit=True) as admin:
        with suppress(psycopg.errors.DuplicateObject):
            admin.execute("CREATE ROLE tdp_reader NOLOGIN")
        admin.execute(f"GRANT SELECT ON {', '.join((*READABLE, *FOR_COMMANDS))} TO tdp_reader")
    try:
        assert apply_reader(writer, login=False) == []
        said = "role tdp_reader: may acquire advisory locks, create large objects, create temporary tables"
        assert capsys.readouterr().err.startswith(said)
        with psycopg.connect(database_url, autocommit=True) as admin:
            admin.execute(f"ALTER DATABASE {admin.info.dbname} OWNER TO writer")
        assert apply_reader(writer, login=False) == ["role PUBLIC: may no longer create temporary tables"]
        with psycopg.connect(database_url, autocommit=True) as admin:
            (statement,) = re.findall(r"```sql\n(DO .*?)```", ANALYSIS.read_text(), re.DOTALL)
            admin.execute(statement.replace(" TO tdp;", " TO writer;").encode())
        capsys.readouterr()
        assert (apply_reader(writer, login=False), capsys.readouterr().err) == ([], "")
        with psycopg.connect(writer) as session:
            session.execute("SELECT pg_advisory_lock(1, 2)")
            session.execute("CREATE TEMPORARY TABLE mine ()")
    finally:
        with psycopg.connect(database_url, autocommit=True) as admin:
            admin.execute(f"ALTER DATABASE {admin.info.dbname} OWNER TO CURRENT_USER")
        drop(database_url)


def test_a_missing_right_to_create_roles_is_reported(
    database_url: str, postgres: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute("CREATE ROLE plain LOGIN")
    try:
        assert apply_reader(make_conninfo(database_url, user="plain"), login=False) == []
        line = capsys.readouterr().err
        assert line.startswith("role tdp_reader: not set up, this database user may not (permission denied")
    finally:
        with psycopg.connect(postgres, autocommit=True) as admin:
            admin.execute("DROP ROLE plain")
