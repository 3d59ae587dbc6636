"""Alembic's entry: runs the migrations on the connection that :func:`flows.ledger.migrate` hands over."""

from alembic import context

connection = context.config.attributes["connection"]
# Prefect's own tables may share the database; its migrations own the name alembic_version.
context.configure(connection=connection, version_table="tdp_schema_version")
with context.begin_transaction():
    context.run_migrations()
