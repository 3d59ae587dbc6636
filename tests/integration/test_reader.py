"""The role tdp_reader sees the data, and neither changes it nor sees the ledger."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from deployments.reader import READABLE, apply_reader
from flows.ledger.schema_version import migrate


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


def test_it_reads_the_data(reader: str) -> None:
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
    ],
)
def test_it_sees_no_other_table_and_changes_nothing(reader: str, statement: str) -> None:
    with (
        psycopg.connect(reader, autocommit=True) as session,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        for each in statement.split(";"):
            session.execute(each.encode())


def test_it_writes_nothing_by_default(reader: str) -> None:
    with psycopg.connect(reader) as session, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        session.execute("CREATE TEMPORARY TABLE mine ()")


def test_a_second_time_changes_nothing(reader: str, database_url: str) -> None:
    assert apply_reader(database_url, login=True) == []


def test_what_a_migration_has_made_again_is_readable_again(reader: str, database_url: str) -> None:
    migrate(database_url, "0007")
    migrate(database_url)
    (line,) = apply_reader(database_url, login=True)
    assert "topics" in line
    assert "chats" not in line.split()


def test_without_the_right_to_create_roles_this_is_said(
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
