"""What a test reads from the ledger of its installation, or changes in it."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
from psycopg.rows import dict_row

from flows.settings import Settings


def query(settings: Settings, statement: str, *values: object) -> list[dict[str, Any]]:
    """Run a statement and commit it; return its rows, if it has any."""
    with psycopg.connect(settings.database, row_factory=dict_row, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []


def column(settings: Settings, statement: str, *values: object) -> list[Any]:
    """Return the first column of the rows."""
    return [next(iter(row.values())) for row in query(settings, statement, *values)]


async def seen(settings: Settings, statement: str, *values: object) -> None:
    """Wait until the statement returns a row."""
    async with asyncio.timeout(60):
        while not query(settings, statement, *values):
            await asyncio.sleep(0.05)
