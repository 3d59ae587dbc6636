"""Schema version of the database: Alembic migrations of the ledger and the data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flows.errors import SchemaMismatch
from flows.ledger.connection import Connection
from flows.ledger.locks import MIGRATION

if TYPE_CHECKING:
    import sqlalchemy as sa

_MIGRATIONS = Path(__file__).parent / "migrations"


def sqlalchemy_url(url: str) -> sa.URL:
    """Return ``url`` for SQLAlchemy with psycopg2, whatever driver it names."""
    from sqlalchemy import make_url  # imported late: it takes a fifth of the start of a command

    return make_url(url).set(drivername="postgresql+psycopg2")


def migrate(url: str, revision: str = "head") -> tuple[str | None, str | None]:
    """Upgrade or downgrade the database at ``url`` to ``revision``; concurrent calls run one after another.

    ``base`` removes all tables. Returns the revisions before and after, None for an empty database. Raises
    SchemaMismatch if this release does not know the current or the requested revision.
    """
    # Imported here because they take a fifth of the time in which a flow or a command starts.
    import sqlalchemy as sa
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    engine = sa.create_engine(sqlalchemy_url(url), poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION})
        connection.commit()
        config.attributes["connection"] = connection
        before = _current(connection)
        _reject_unknown(before)
        downgrade = revision == "base" or (revision.isdigit() and before is not None and revision < before)
        try:
            (command.downgrade if downgrade else command.upgrade)(config, revision)
        except CommandError as error:
            raise SchemaMismatch(str(error)) from error
        connection.commit()
        return before, _current(connection)


def check_schema(connection: Connection) -> None:
    """Raise SchemaMismatch unless the database has the schema of this release."""
    with connection.cursor() as cursor:
        # Two statements: PostgreSQL cannot even parse a query of a table that does not exist.
        cursor.execute("SELECT to_regclass('tdp_schema_version')")
        if cursor.fetchone() == (None,):
            cursor.execute("SELECT NULL")
        else:
            cursor.execute("SELECT version_num FROM tdp_schema_version")
        row = cursor.fetchone()
    current = row[0] if row else None
    _reject_unknown(current)
    if current != (newest := _revisions()[0]):
        has = f"has schema {current}" if current else "has no tables of this project"
        raise SchemaMismatch(
            f"The database {has}, but this release needs schema {newest}."
            " Run `tdp migrate`, or start `tdp up`, which migrates too."
        )


def _reject_unknown(current: str | None) -> None:
    if current is not None and current not in (known := _revisions()):
        raise SchemaMismatch(
            f"The database has schema {current} of a newer release; the newest that this release knows is"
            f" {known[0]}. Install the newer release, or downgrade as described in deployments/UPGRADE.md."
        )


def _revisions() -> list[str]:
    """Return the revisions that this release knows, the newest first: the files are named by them."""
    return sorted((path.stem[:4] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py")), reverse=True)


def _current(connection: sa.Connection) -> str | None:
    import sqlalchemy as sa

    current = None
    if sa.inspect(connection).has_table("tdp_schema_version"):
        current = connection.execute(sa.text("SELECT version_num FROM tdp_schema_version")).scalar()
    connection.commit()
    return current
