"""The role for analysts: it reads the data and no other table of the ledger.

PostgreSQL lets every role acquire advisory locks, with which a session could keep the gates closed, and
create temporary tables and large objects. These rights are revoked from PUBLIC; roles that write the ledger
keep them. In the other databases of the embedded server the role would still have these rights, so it may not
connect to them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence

import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor  # noqa: N812 - it is a class
from psycopg2.extensions import quote_ident

from flows.errors import in_one_line
from flows.ledger.connection import Connection, connection

READER = "tdp_reader"
#: Tables and views that it reads.
READABLE = (
    "chats", "messages", "message_topics", "topics", "reactions", "forwards", "polls", "files",
    "message_versions", "edits", "missing_messages", "messages_per_day", "messages_per_hour", "senders",
    "media_kinds",
)  # fmt: skip
#: What `tdp search`, `tdp export` and `tdp stats` read besides.
FOR_COMMANDS = ("tdp_schema_version", "chat_aliases", "search_documents", "search_pending")
#: Connections of the role at the same time: the pool of a BI program must leave some for the pipeline.
_CONNECTIONS = 40
#: Rights that every role has and this one must not have, and whether the current user may revoke them.
_TOO_MUCH = """
SELECT 'EXECUTE', 'FUNCTION ' || oid::regprocedure,
       CASE WHEN proname ~ '^lo' THEN 'create large objects' ELSE 'acquire advisory locks' END,
       pg_has_role(proowner, 'USAGE')
FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace
  AND proname ~ '^(pg_(try_)?advisory_(xact_)?lock(_shared)?|lo_creat|lo_create|lo_from_bytea)$'
  AND has_function_privilege('public', oid, 'EXECUTE')
UNION ALL
SELECT 'TEMPORARY', format('DATABASE %I', datname), 'create temporary tables', pg_has_role(datdba, 'USAGE')
FROM pg_database WHERE datname = current_database() AND has_database_privilege('public', oid, 'TEMPORARY')
UNION ALL
SELECT 'CREATE', format('SCHEMA %I', nspname), 'create tables', pg_has_role(nspowner, 'USAGE')
FROM pg_namespace WHERE nspname = current_schema() AND has_schema_privilege('public', oid, 'CREATE')
"""
#: Roles that write the ledger; superusers need no right.
_WRITERS = """
SELECT rolname FROM pg_roles WHERE NOT rolsuper AND rolname !~ '^pg_' AND rolname <> %s
  AND (rolname = current_user OR has_table_privilege(oid, 'stage_runs', 'INSERT'))
"""

#: Other databases to which every role may connect, and in which it has those rights.
_OTHER_DATABASES = """
SELECT datname FROM pg_database
WHERE datallowconn AND datname <> current_database() AND has_database_privilege('public', oid, 'CONNECT')
ORDER BY datname
"""
#: Roles that keep the right to connect to them; superusers need none.
_OTHER_ROLES = """
SELECT rolname FROM pg_roles WHERE NOT rolsuper AND rolname !~ '^pg_' AND rolname <> %s
"""


def apply_reader(url: str, *, login: bool) -> list[str]:
    """Create the role and let it read the data of the database at ``url``; return one line per change.

    Reports on stderr if the database user may not do that.

    ``login``: whether the role may log in, as on a server that only this user can reach. On such a server,
    whose databases all belong to this project, it may connect to no other database.
    """
    with connection(url, autocommit=True) as ledger:
        try:
            return list(_apply(ledger, login=login))
        except psycopg2.errors.InsufficientPrivilege as error:
            # Reported, but not as a change: it occurs each time if the owner lacks this right.
            sys.stderr.write(
                f"role {READER}: not set up, this database user may not ({in_one_line(error)})\n"
            )
            return []


def _apply(ledger: Connection, *, login: bool) -> Iterator[str]:
    with ledger.cursor() as cursor:
        cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", [READER])
        if cursor.fetchone() is None:
            role = sql.Identifier(READER)
            may = f"{'LOGIN' if login else 'NOLOGIN'} CONNECTION LIMIT {_CONNECTIONS}"
            cursor.execute(sql.SQL(f"CREATE ROLE {{}} {may}").format(role))
            cursor.execute(sql.SQL("ALTER ROLE {} SET default_transaction_read_only = on").format(role))
            yield f"role {READER}: created"
        cursor.execute(
            "SELECT name FROM unnest(%s) AS name WHERE NOT has_table_privilege(%s, name, 'SELECT')",
            [[*READABLE, *FOR_COMMANDS], READER],
        )
        if missing := [name for (name,) in cursor.fetchall()]:
            tables = sql.SQL(", ").join(map(sql.Identifier, missing))
            cursor.execute(sql.SQL("GRANT SELECT ON {} TO {}").format(tables, sql.Identifier(READER)))
            yield f"role {READER}: may read {', '.join(missing)}"
        yield from _restrict(cursor)
        if login:
            yield from _close_other_databases(cursor)


def _restrict(cursor: Cursor) -> Iterator[str]:
    """Revoke from PUBLIC the rights that the role must not have; report on stderr those that this database
    user may not revoke."""
    cursor.execute(_TOO_MUCH)
    found = cursor.fetchall()
    if others := sorted({what for _, _, what, is_ours in found if not is_ours}):
        sys.stderr.write(
            f"role {READER}: may {', '.join(others)}, and this database user may not revoke it:"
            " see deployments/ANALYSIS.md for the remedy\n"
        )
    if ours := [(right, of, what) for right, of, what, is_ours in found if is_ours]:
        cursor.execute(_WRITERS, [READER])
        writers = [name for (name,) in cursor.fetchall()]
        # One request is one transaction: no session of the pipeline loses its rights in between.
        cursor.execute(sql.SQL(";").join(_revocations([(right, of) for right, of, _ in ours], writers)))
        yield f"role PUBLIC: may no longer {', '.join(sorted({what for _, _, what in ours}))}"


def _revocations(rights: Iterable[tuple[str, str]], keepers: Sequence[str]) -> Iterator[sql.Composable]:
    """Yield statements that grant rights (which, of what) to the keepers, and revoke them from PUBLIC."""
    kept_by = sql.SQL(", ").join(map(sql.Identifier, keepers))
    for right, of in rights:
        if keepers:
            yield sql.SQL(f"GRANT {right} ON {of} TO {{}}").format(kept_by)
        yield sql.SQL(f"REVOKE {right} ON {of} FROM PUBLIC")


def _close_other_databases(cursor: Cursor) -> Iterator[str]:
    """Revoke the right to connect to other databases from PUBLIC; all existing roles except the reader keep
    it."""
    cursor.execute(_OTHER_DATABASES)
    if names := [name for (name,) in cursor.fetchall()]:
        cursor.execute(_OTHER_ROLES, [READER])
        others = [name for (name,) in cursor.fetchall()]
        revoked = [("CONNECT", f"DATABASE {quote_ident(name, cursor)}") for name in names]
        cursor.execute(sql.SQL(";").join(_revocations(revoked, others)))
        yield f"role PUBLIC: may no longer connect to {', '.join(names)}"
