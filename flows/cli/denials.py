"""One error for everything that PostgreSQL does not permit the role of a command, whichever driver reports
it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import psycopg2.errors
from typer.core import TyperGroup

from flows.errors import AccessDenied, in_one_line
from flows.ledger.schema_version import sqlalchemy_url
from flows.settings import Settings

_DENIED = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg2.errors.InsufficientPrivilege,
    psycopg2.errors.ReadOnlySqlTransaction,
)
_WHAT_TO_DO = (
    "tdp_reader reads messages: `tdp search`, `tdp stats`, `tdp export` of messages, chats and senders."
    " Other commands need the role of `tdp up`: name it in TDP_DATABASE_URL, or unset that for the embedded"
    " server."
)


class Group(TyperGroup):
    """Commands whose denials are reported as AccessDenied."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that is named."""
        with named_denials():
            return super().invoke(ctx)


@contextmanager
def named_denials() -> Iterator[None]:
    """Raise AccessDenied, which names the role, for a statement that its rights do not permit."""
    try:
        yield
    except Exception as error:
        original = getattr(error, "orig", error)  # of SQLAlchemy, without which most commands start
        if not isinstance(original, _DENIED):
            raise
        raise _access_denied(original) from error


def _access_denied(error: BaseException) -> AccessDenied:
    role = sqlalchemy_url(Settings().database).username or "of this user"
    return AccessDenied(f"the database role {role} may not do that: {in_one_line(error)}", _WHAT_TO_DO)
