"""The tables that the store stage writes, and `tdp` on them."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql
from typer.testing import CliRunner, Result

from flows.cli.main import app

TABLES = [
    "chats",
    "messages",
    "chat_aliases",
    "chat_clues",
    "joined_chats",
    "joined_messages",
    "message_versions",
    "chat_exports",
    "missing_messages",
]


def tables(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of all tables that the stage writes."""
    with psycopg.connect(url) as connection:
        return {
            name: connection.execute(
                sql.SQL("SELECT t::text FROM {} t ORDER BY 1").format(sql.Identifier(name))
            ).fetchall()
            for name in TABLES
        }


def clear(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(sql.SQL("TRUNCATE {}").format(sql.SQL(", ").join(map(sql.Identifier, TABLES))))


def run_tdp(url: str, *arguments: object, columns: int = 300) -> Result:
    """Run `tdp` in this process on the database at ``url``, in which no other service runs."""
    env = {"TDP_DATABASE_URL": url, "TDP_HOME": "/nonexistent", "COLUMNS": str(columns)}
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=env)
