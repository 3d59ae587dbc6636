"""The role for analysts: it reads the data and no other table of the ledger."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import psycopg2.errors
from psycopg2 import sql

from flows.ledger.connection import Connection, connection

READER = "tdp_reader"
#: Tables and views that it reads.
READABLE = (
    "chats", "messages", "message_topics", "topics", "reactions", "forwards", "polls", "files",
    "message_versions", "edits", "missing_messages", "messages_per_day", "messages_per_hour", "senders",
    "media_kinds",
)  # fmt: skip


def apply_reader(url: str, *, login: bool) -> list[str]:
    """Create the role and let it read the data of the database at ``url``; return one line per change.

    Says on stderr if the database user may not do that.

    ``login``: whether it may log in without further ado, as in a server that only this user reaches.
    """
    with connection(url, autocommit=True) as ledger:
        try:
            return list(_apply(ledger, login=login))
        except psycopg2.errors.InsufficientPrivilege as error:
            # No change, so not among the changes: an owner without this right has the same again each time.
            sys.stderr.write(f"role {READER}: not set up, this database user may not ({_line(error)})\n")
            return []


def _apply(ledger: Connection, *, login: bool) -> Iterator[str]:
    with ledger.cursor() as cursor:
        cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", [READER])
        if cursor.fetchone() is None:
            role = sql.Identifier(READER)
            cursor.execute(sql.SQL(f"CREATE ROLE {{}} {'LOGIN' if login else 'NOLOGIN'}").format(role))
            cursor.execute(sql.SQL("ALTER ROLE {} SET default_transaction_read_only = on").format(role))
            yield f"role {READER}: created"
        cursor.execute(
            "SELECT name FROM unnest(%s) AS name WHERE NOT has_table_privilege(%s, name, 'SELECT')",
            [list(READABLE), READER],
        )
        if missing := [name for (name,) in cursor.fetchall()]:
            tables = sql.SQL(", ").join(map(sql.Identifier, missing))
            cursor.execute(sql.SQL("GRANT SELECT ON {} TO {}").format(tables, sql.Identifier(READER)))
            yield f"role {READER}: may read {', '.join(missing)}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
