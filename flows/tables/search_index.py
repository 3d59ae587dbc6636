"""Index messages for search, separately from the loads: new messages are pending until this has run.

A load only adds its source files to ``search_pending``. Indexing takes no lock that a load waits for, and can
be interrupted at any time: each portion of source files is one transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flows.ledger.connection import Connection
from flows.ledger.locks import INDEXING
from flows.ledger.named_sql import load

#: Source files that are indexed in one transaction.
_PORTION = 20
_sql = load("search.sql", as_dicts=False)


class Indexed(NamedTuple):
    """Numbers of source files read, and of messages added to or updated in the index, or removed from it.

    ``is_elsewhere``: another session was indexing and continues with the rest.
    """

    sources: int = 0
    written: int = 0
    removed: int = 0
    is_elsewhere: bool = False


def index(connection: Connection, report: Callable[[Indexed], object] = lambda _: None) -> Indexed:
    """Index all pending messages and remove deleted ones; the connection is not in autocommit mode.

    Does nothing while another session does it.
    """
    sources = written = 0
    while True:
        if not _sql.index_alone(connection, lock_key=INDEXING):
            connection.rollback()
            return Indexed(sources, written, is_elsewhere=True)
        if not (portion := _sql.take_pending(connection, most=_PORTION)):
            break
        written += _sql.index_sources(connection, sources=portion)
        connection.commit()
        sources += len(portion)
        report(Indexed(sources, written))
    removed = _sql.prune_documents(connection) if sources else 0
    connection.commit()
    return Indexed(sources, written, removed)


def rebuild(connection: Connection) -> None:
    """Define search again with the extensions that are available now; all messages become pending.

    Waits for the portion that is being indexed. Loads do not wait; searches find everything, but take longer
    until :func:`index` has run.
    """
    _sql.rebuild_search(connection)
    connection.commit()
