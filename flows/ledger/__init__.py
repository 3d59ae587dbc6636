"""The truth about progress: tables in PostgreSQL, named SQL, and the few functions over them."""

from flows.ledger.schema import check_schema, migrate, sqlalchemy_url

__all__ = ["check_schema", "migrate", "sqlalchemy_url"]
