"""Sessions that hold a lock or wait: async connections whose loss PostgreSQL and this side notice in seconds.

psycopg 3 rather than the block's psycopg2: it waits for a lock without a thread, and shows its socket.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from flows.errors import DatabaseUnavailable, in_one_line
from flows.ledger.named_sql import sql

Session = AsyncConnection[DictRow]

#: This side treats a server that does not respond as dead after 5 s, and the server this side after 15 s: so
#: the work of a disconnected process has ended before its lock is released.
CLIENT_SIDE: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5_000,
}
SERVER_SIDE = (
    "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=3"
    " -c tcp_keepalives_count=3 -c tcp_user_timeout=15000"
)
#: The longest wait, in seconds, for a restart or a failover of PostgreSQL.
PATIENCE = 600.0

_log = logging.getLogger(__name__)


async def connect(url: str, application: str, patience: float = PATIENCE) -> Session:
    """Return a new autocommit session, waiting up to ``patience`` seconds for an unavailable server.

    No timeout of the server, of the role or of the database ends its waits. Raises DatabaseUnavailable if the
    server is still unavailable then.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    pause = 0.1
    while True:
        try:
            session: Session = await AsyncConnection.connect(
                url,
                autocommit=True,
                row_factory=dict_row,
                application_name=application,
                options=SERVER_SIDE,
                **CLIENT_SIDE,
            )
            return await _without_timeouts(session)
        except psycopg.OperationalError as error:
            if loop.time() + pause > deadline:
                raise DatabaseUnavailable(f"PostgreSQL does not respond: {in_one_line(error)}") from error
            _log.warning("PostgreSQL does not respond, trying again in %.1f s: %s", pause, error)
        await asyncio.sleep(pause)
        pause = min(2 * pause, 2.0)


async def _without_timeouts(session: Session) -> Session:
    try:
        await session.execute(sql("end_no_wait").encode())
    except BaseException:
        await session.close()
        raise
    return session


async def fetch(session: Session, statement: str, /, **values: object) -> list[DictRow]:
    """Run the named statement and return its rows. Raises DatabaseUnavailable if the session is lost."""
    try:
        cursor = await session.execute(sql(statement).encode(), values)
        return await cursor.fetchall() if cursor.description else []
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"the session was lost: {in_one_line(error)}") from error


async def fetch_one(session: Session, statement: str, /, **values: object) -> DictRow:
    """Run the named statement and return its only row; LookupError if there is none."""
    rows = await fetch(session, statement, **values)
    if not rows:
        raise LookupError(statement)
    return rows[0]
