"""The lock of the one Prefect server of a ledger: a second home on the same ledger is refused.

Two servers would grant the limits twice. If they share a database but not the directory of leases, neither
could renew a lease that the other granted.
"""

from __future__ import annotations

import socket
import time
from typing import Any

import psycopg

from flows.errors import ServiceFailed
from flows.ledger.locks import SERVER
from flows.ledger.named_sql import sql
from flows.ledger.session import CLIENT_SIDE, SERVER_SIDE
from flows.settings import Settings

#: Seconds between two checks that the session, and with it the lock, still exists.
_CHECK_SECONDS = 2.0
#: PostgreSQL cuts longer names of sessions; the end of a path identifies a home better than its beginning.
_NAME_BYTES = 63


class ServerLock:
    """Holds the lock in a session of its own, until :meth:`release` or the end of this process."""

    def __init__(self, settings: Settings) -> None:
        """Prepare the lock of the ledger of ``settings``."""
        self._settings = settings
        self._session: psycopg.Connection | None = None
        self._checked = 0.0

    def acquire(self) -> None:
        """Acquire the lock. Raises ServiceFailed, which names the holder; psycopg.Error without a server."""
        self.release()
        self._session = psycopg.connect(
            self._settings.database,
            autocommit=True,
            application_name=_name(self._settings),
            options=SERVER_SIDE,
            **CLIENT_SIDE,
        )
        self._query("end_no_wait")
        if not self._query("lock_server", space=SERVER):
            holder = self._query("server_lock_holder", space=SERVER) or "another process"
            self.release()
            raise ServiceFailed(
                f"This ledger is in use by the Prefect server of another home: {holder}. A second server"
                " would grant its limits twice. Use that home, or set another TDP_DATABASE_URL for this one."
            )

    def keep(self) -> None:
        """Acquire the lock again if its session was lost. Raises ServiceFailed if another home has it now."""
        if time.monotonic() - self._checked < _CHECK_SECONDS:
            return
        try:
            if self._session is None:
                self.acquire()
            else:
                self._query("clock")
        except psycopg.Error:  # PostgreSQL is unavailable: try again at the next check
            self.release()
        self._checked = time.monotonic()

    def release(self) -> None:
        """Release the lock by closing its session."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _query(self, name: str, **values: object) -> Any:
        assert self._session is not None  # noqa: S101 - for mypy: acquire() has set it
        cursor = self._session.execute(sql(name).encode(), values)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def _name(settings: Settings) -> str:
    prefix = f"tdp up {socket.gethostname()[:20]}:"
    home = bytes(settings.root)[-(_NAME_BYTES - len(prefix)) :]
    return prefix + home.decode(errors="replace")
