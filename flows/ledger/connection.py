"""psycopg2 connections, for everything that neither holds a lock nor waits: reports, COPY, administration.

Flows get them from the engine of the SqlAlchemyConnector block
(:meth:`flows.batches.runtime.Runtime.query`). Sessions that hold locks use psycopg 3: see
:mod:`flows.ledger.session`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import psycopg2.extensions

Connection = psycopg2.extensions.connection


@contextmanager
def connection(
    url: str, *, autocommit: bool = False, readonly: bool | None = None, **parameters: Any
) -> Iterator[Connection]:
    """Yield a connection to the database at ``url`` (a libpq URI), and close it afterwards.

    ``parameters`` are those of libpq (``connect_timeout`` in seconds, ``options``, ``dbname``). Raises
    psycopg2.OperationalError if the server does not respond.
    """
    with closing(psycopg2.connect(url, **parameters)) as opened:
        opened.set_session(readonly=readonly, autocommit=autocommit)
        yield opened
