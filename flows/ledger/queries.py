"""The named SQL of the ``.sql`` files, as text with ``%(name)s`` placeholders for either psycopg."""

from __future__ import annotations

from pathlib import Path

import aiosql

_queries = aiosql.from_path(Path(__file__).parent / "sql", "psycopg2", mandatory_parameters=False)


def sql(name: str) -> str:
    """Return the statement of that name; AttributeError if no file has it."""
    text: str = getattr(_queries, name).sql
    return text
