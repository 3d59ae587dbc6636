"""Search the messages: words, phrases and parts of words, ranked, with a snippet and a link.

The index only finds candidates; the current text of each is compared. Messages that are not indexed yet are
compared one by one, so a search finds them as well, but more slowly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

import msgspec
import psycopg2

from flows.ledger.connection import Connection
from flows.ledger.named_sql import load, records
from flows.tables.orders import Choice
from flows.tables.search_query import Query, needles, pattern, query
from flows.tables.snippets import snippet_of

#: Messages that are ranked: the latest of those that match.
_RANKED = 500
_sql = load("search.sql")


class Hit(msgspec.Struct, frozen=True):
    """One message that matches; ``rank`` is null for parts of words, which are ordered by time only.

    ``marks`` are the places (first character, end) in the snippet that match. ``link`` opens the message in
    Telegram; null where no link exists.
    """

    chat_key: str
    chat_name: str | None
    message_id: int
    sent_at: datetime | None
    sent_local: datetime | None
    sender_id: str | None
    sender_name: str | None
    rank: float | None
    link: str | None
    snippet: str
    marks: list[tuple[int, int]]


class Found(msgspec.Struct, frozen=True):
    """The hits, best first; how many source files were not indexed; the extensions that are missing.

    ``latest``: more messages match than are ranked, and the hits are the best of this many, the latest; null
    if all that match were ranked.
    """

    hits: list[Hit]
    pending_sources: int
    missing_extensions: list[str]
    latest: int | None = None


def search(
    connection: Connection,
    given: str,
    choice: Choice,
    *,
    sender: str | None = None,
    substring: bool = False,
    limit: int = 20,
) -> Found:
    """Return the messages that match ``given``: all its words, or it as a part of a text (``substring``).

    Words may be combined as in web searches: ``"a phrase"``, ``one or other``, ``-without``. ``sender`` is
    an id or a part of a name. Raises QueryUnclear if no word is required to occur.
    """
    with _while_not_rebuilt(connection):
        return _search(connection, given, choice, sender, limit, substring=substring)


@contextmanager
def _while_not_rebuilt(connection: Connection) -> Iterator[None]:
    """Make `tdp search --rebuild` and this search wait for each other.

    The rebuild empties the index by TRUNCATE: if this happened between the steps of a search, the search
    would find nothing.
    """
    with connection.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE search_documents IN ACCESS SHARE MODE")
    try:
        yield
    finally:
        # An interrupt may have ended the session; the error that counts is that of the body.
        with suppress(psycopg2.Error), connection.cursor() as cursor:
            cursor.execute("COMMIT")


def _search(
    connection: Connection, given: str, choice: Choice, sender: str | None, limit: int, *, substring: bool
) -> Found:
    part = pattern(_sql.plain_text(connection, given=given.strip())) if substring else None
    asked = None if substring else query(connection, given)
    sources = _sql.pending_sources(connection)
    most = max(_RANKED, limit)
    filters = {
        **choice._asdict(),
        "sender": sender,
        "most": most + 1,
    }  # one more shows that further ones match
    indexed = _indexed(connection, asked, part, sources, filters)
    pending = _pending(connection, asked, part, sources, filters) if sources else []
    rows = indexed[:most] + pending[:most]
    hits = _sql.hits(
        connection,
        chat_keys=[row["chat_key"] for row in rows],
        message_ids=[row["message_id"] for row in rows],
        words=asked and asked.words,
        part=part,
        limit=limit,
    )
    marks = [given.strip()] if substring else needles(given)
    found = records((_hit(row, marks, whole=not substring) for row in hits), Hit)
    latest = most if asked and max(len(indexed), len(pending)) > most else None
    return Found(found, len(sources), missing_extensions(connection), latest)


def missing_extensions(connection: Connection) -> list[str]:
    """Return the names of the extensions that search would use but the database lacks."""
    return sorted({"unaccent", "pg_trgm"} - set(_sql.search_extensions(connection)))


def _indexed(
    connection: Connection,
    asked: Query | None,
    part: str | None,
    sources: list[int],
    filters: dict[str, Any],
) -> list[dict[str, Any]]:
    """Return the latest indexed messages that match, at most ``most``.

    The candidates of the index are compared the latest first, which is quick if there are many matches; if
    too few of the latest match, all candidates are compared.
    """
    most, sender = filters["most"], filters["sender"]
    lazily: dict[str, Any] = {"tsquery": None, "words": None, "sender_first": None}
    if asked:
        lazily |= {"tsquery": asked.loose, "words": asked.words if asked.loose != asked.exact else None}
    fully = lazily | {"tsquery": asked and asked.exact, "words": None, "sender_first": sender}
    first = most if lazily == fully and not sources else 20 * most
    for how, candidates in ((lazily, first), (fully, None)):
        steps = {**filters, **how, "part": part, "sources": sources, "candidates": candidates}
        rows = list(_sql.found(connection, **steps))
        if len(rows) >= most or rows[0]["looked"] < first:
            break
    return [row for row in rows if row["chat_key"] is not None]


def _pending(
    connection: Connection,
    asked: Query | None,
    part: str | None,
    sources: list[int],
    filters: dict[str, Any],
) -> list[dict[str, Any]]:
    """Return the latest messages that match of sources that are not indexed."""
    words, patterns, every = (asked.words, asked.patterns, asked.every) if asked else (None, [part], True)
    how = {"words": words, "patterns": patterns, "every": every, "sources": sources}
    return list(_sql.found_pending(connection, **how, **filters))


def _hit(row: dict[str, object], needles: Sequence[str], *, whole: bool) -> dict[str, object]:
    text = str(row.pop("text"))
    snippet, marks = snippet_of(text, needles, whole=whole)
    return {**row, "link": _link(row), "snippet": snippet, "marks": marks}


def _link(row: dict[str, object]) -> str | None:
    """Return the address of a message: by the channel's name if it is known, else by its id, for members."""
    if row["username"]:
        return f"https://t.me/{row['username']}/{row['message_id']}"
    if str(row["chat_key"]).startswith("channel") and row["chat_id"]:
        return f"https://t.me/c/{row['chat_id']}/{row['message_id']}"
    return None
