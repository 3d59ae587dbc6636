"""The tables that the store stage writes."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

TABLES = ["chats", "messages", "chat_aliases", "chat_clues", "joined_chats", "joined_messages"]


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
