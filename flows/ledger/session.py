"""Sessions that hold a lock: async connections whose death PostgreSQL and we both notice in seconds.

psycopg 3 rather than the block's psycopg2: it waits for a lock without a thread, and shows its socket.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from flows.errors import DatabaseUnavailable
from flows.ledger.named_sql import sql

Session = AsyncConnection[DictRow]

#: We take a server that does not answer for dead after 5 s, it us after 15 s: a holder that was cut off has
#: ended its work before its lock opens.
_CLIENT_SIDE: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5_000,
}
_SERVER_SIDE = (
    "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=3"
    " -c tcp_keepalives_count=3 -c tcp_user_timeout=15000"
)
#: How long a restart or a failover of PostgreSQL is waited for, in seconds.
PATIENCE = 600.0

_log = logging.getLogger(__name__)


@dataclass
class _Kept:
    idle: list[Session] = field(default_factory=list)
    is_over: bool = False


_kept: ContextVar[_Kept | None] = ContextVar("sessions_kept", default=None)


async def connect(url: str, application: str, patience: float = PATIENCE) -> Session:
    """Return a new autocommit session, waiting up to ``patience`` seconds for a server that is away.

    Raises DatabaseUnavailable when it stays away.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    pause = 0.1
    while True:
        try:
            return await AsyncConnection.connect(
                url,
                autocommit=True,
                row_factory=dict_row,
                application_name=application,
                options=_SERVER_SIDE,
                **_CLIENT_SIDE,
            )
        except psycopg.OperationalError as error:
            if loop.time() + pause > deadline:
                raise DatabaseUnavailable(f"PostgreSQL does not answer: {error}".rstrip()) from error
            _log.warning("PostgreSQL does not answer, trying again in %.1f s: %s", pause, error)
        await asyncio.sleep(pause)
        pause = min(2 * pause, 2.0)


@asynccontextmanager
async def sessions_kept() -> AsyncIterator[None]:
    """Let the batches of the body, one after the other, have each other's sessions.

    A new session costs PostgreSQL 2 ms for its process, and more for its first statements, as it reads the
    catalog and plans them: of a batch whose stages do nothing, 15 of 50 ms of PostgreSQL's CPU time.

    Pitfall: where a process can escape its stage (not on Linux, see :mod:`flows.stages.runner.supervisor`),
    it holds the socket of a session that later batches lock with. If the flow is killed then, their locks
    stay closed until that process ends too.
    """
    kept = _Kept()
    token = _kept.set(kept)
    try:
        yield
    finally:
        _kept.reset(token)
        kept.is_over = True
        for session in kept.idle:
            await session.close()


async def take(url: str, application: str) -> Session:
    """Return a session that was given back and lives, else a new one as :func:`connect` makes it."""
    kept = _kept.get()
    while kept and kept.idle:
        session = kept.idle.pop()
        if await _lives(session, "name_session", application=application):
            return session
    return await connect(url, application)


async def give_back(session: Session) -> None:
    """Open the session's locks and leave it to who comes next; where nobody will, close it."""
    kept = _kept.get()
    if kept and await _lives(session, "open_all_locks") and not kept.is_over:
        kept.idle.append(session)
    else:
        await session.close()


async def _lives(session: Session, statement: str, **values: object) -> bool:
    """Run the statement; if that fails, close the session, and return False if it was lost."""
    try:
        await fetch(session, statement, **values)
    except BaseException as error:
        await session.close()
        if not isinstance(error, DatabaseUnavailable):
            raise
    return not session.closed


async def fetch(session: Session, statement: str, /, **values: object) -> list[DictRow]:
    """Run the named statement and return its rows. Raises DatabaseUnavailable if the session is gone."""
    try:
        cursor = await session.execute(sql(statement).encode(), values)
        return await cursor.fetchall() if cursor.description else []
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"the session was lost: {error}".rstrip()) from error


async def fetch_together(
    session: Session, *calls: tuple[str, Mapping[str, object]], apart: bool = False
) -> list[list[DictRow]]:
    """Run named statements in one round trip and return the rows of each.

    They are one transaction, in which nothing follows an error, or ``apart``, each of them its own. Raises
    DatabaseUnavailable if the session is gone.
    """
    try:
        async with session.pipeline() as pipeline:
            cursors = []
            for statement, values in calls:
                cursors.append(await session.execute(sql(statement).encode(), values))
                if apart:
                    await pipeline.sync()
        return [await cursor.fetchall() if cursor.description else [] for cursor in cursors]
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"the session was lost: {error}".rstrip()) from error


async def fetch_one(session: Session, statement: str, /, **values: object) -> DictRow:
    """Run the named statement and return its only row; LookupError if there is none."""
    rows = await fetch(session, statement, **values)
    if not rows:
        raise LookupError(statement)
    return rows[0]
