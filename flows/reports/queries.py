"""The named SQL behind every report, and rows made into typed records."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import aiosql
import msgspec
from psycopg2.extras import RealDictCursor

import flows.ledger

T = TypeVar("T")

#: A DB-API connection of psycopg2: its own, or the raw one of an SQLAlchemy engine.
Connection = Any


def load(name: str) -> Any:
    """Return the statements of one ``.sql`` file as functions of a connection; rows are dicts."""
    path = Path(flows.ledger.__file__).parent / "sql" / name
    return aiosql.from_path(path, "psycopg2", kwargs={"cursor_factory": RealDictCursor})


sql = load("reports.sql")


def records(rows: Any, kind: type[T]) -> list[T]:
    """Return dict rows as a list of ``kind``."""
    return msgspec.convert(list(rows), list[kind], strict=False)  # type: ignore[valid-type] # mypy wants a static type
