"""The ledger's database as a prefect-sqlalchemy block."""

from __future__ import annotations

import sqlalchemy as sa
from prefect_sqlalchemy import ConnectionComponents, SqlAlchemyConnector, SyncDriver
from pydantic import SecretStr

#: Name of the block document.
DATABASE = "tdp-postgres"


def connector(url: str) -> SqlAlchemyConnector:
    """Return the connector for the database at ``url`` (libpq form); its password is stored as a secret."""
    parts = sa.make_url(url)
    return SqlAlchemyConnector(
        connection_info=ConnectionComponents(
            driver=SyncDriver.POSTGRESQL_PSYCOPG2.value,  # as it is loaded
            database=parts.database,
            username=parts.username,
            password=SecretStr(parts.password) if parts.password else None,
            host=parts.host,
            port=parts.port,
            # One value per key: libpq expects several hosts as one comma-separated value.
            query={name: str(value) for name, value in parts.query.items()} or None,
        )
    )
