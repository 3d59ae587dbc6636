"""Alembic environment: runs migrations on the connection of :func:`flows.ledger.schema_version.migrate`."""

from alembic import context

connection = context.config.attributes["connection"]
# Prefect's tables may be in the same database, and its migrations use the name alembic_version.
context.configure(connection=connection, version_table="tdp_schema_version")
with context.begin_transaction():
    context.run_migrations()
