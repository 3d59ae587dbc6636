"""Search the messages: words, phrases and parts of words, ranked, with a snippet and a link.

The index only proposes messages; each is compared as it is now. Messages that are not indexed yet are
compared one by one, so that a search finds them all the same, only later.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

import msgspec

from flows.ledger.connection import Connection
from flows.ledger.named_sql import load, records
from flows.tables.orders import Choice

#: Messages that are ranked: the latest of those that match.
_RANKED = 500
#: Characters of a snippet before and after the first match.
_BEFORE, _AFTER = 60, 140
#: Scripts without spaces between words: their texts are indexed as pairs of characters.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+"
)
#: A word in the text form of a tsquery, which doubles quotes and backslashes.
_LEXEME = re.compile(r"'((?:[^'\\]|''|\\\\)*)'")
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
    """The hits, best first; how many source files were not indexed; the extensions that are missing."""

    hits: list[Hit]
    pending_sources: int
    missing_extensions: list[str]


class Wanted(NamedTuple):
    """What is searched: as words for the parser, or as a part of a text; ``runs`` must occur as they are."""

    words: str | None
    part: str | None
    runs: list[str]


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
    an id or a part of a name.
    """
    wanted = _wanted(_sql.plain_text(connection, given=given), substring=substring)
    pending = _sql.pending_sources(connection)
    filters = {**choice._asdict(), "sender": sender, "most": max(_RANKED, limit)}
    if wanted.words is not None:
        rows = list(_sql.found_words(connection, words=wanted.words, **filters))
    else:
        rows = list(_sql.found_part(connection, part=wanted.part, **filters))
    if pending:
        patterns, every = _patterns(connection, wanted)
        asked = {"words": wanted.words, "patterns": patterns or None, "every": every}
        rows += _sql.found_pending(connection, sources=pending, **asked, **filters)
    hits = _sql.hits(
        connection,
        chat_keys=[row["chat_key"] for row in rows],
        message_ids=[row["message_id"] for row in rows],
        limit=limit,
        **wanted._asdict(),
    )
    marks = _needles(given, substring=substring)
    found = records((_hit(row, marks) for row in hits), Hit)
    return Found(found, len(pending), missing_extensions(connection))


def missing_extensions(connection: Connection) -> list[str]:
    """Return the names of the extensions that search would use and the database has not."""
    return sorted({"unaccent", "pg_trgm"} - set(_sql.search_extensions(connection)))


def _wanted(plain: str, *, substring: bool) -> Wanted:
    runs = _UNSPACED.findall(plain)
    # One character is no pair: only a look into each text finds it.
    if substring or any(len(run) == 1 for run in runs):
        return Wanted(None, _pattern(plain.strip()), [])
    pairs = _UNSPACED.sub(lambda run: " ".join(map("".join, pairwise(run[0]))), plain)
    return Wanted(pairs, None, [] if '"' in plain or " or " in plain or "-" in plain else runs)


def _pattern(part: str) -> str:
    """Return the LIKE pattern of the texts that contain ``part``."""
    return "%" + re.sub(r"([\\%_])", r"\\\1", part) + "%"


def _patterns(connection: Connection, wanted: Wanted) -> tuple[list[str], bool]:
    """Return patterns that a plain text fits if it matches: every one of them, or one at least."""
    if wanted.part is not None:
        return [wanted.part], True
    tree: str = _sql.positive_words(connection, words=wanted.words)
    words = [re.sub(r"(['\\])\1", r"\1", word) for word in _LEXEME.findall(tree)]
    return [_pattern(word) for word in words], "|" not in _LEXEME.sub("", tree)


def _hit(row: dict[str, object], needles: Sequence[str]) -> dict[str, object]:
    text = str(row.pop("text"))
    snippet, marks = snippet_of(text, needles)
    return {**row, "link": _link(row), "snippet": snippet, "marks": marks}


def _link(row: dict[str, object]) -> str | None:
    """Return the address of a message: by the channel's name if it is known, else by its id, for members."""
    if row["username"]:
        return f"https://t.me/{row['username']}/{row['message_id']}"
    if str(row["chat_key"]).startswith("channel"):
        return f"https://t.me/c/{row['chat_id']}/{row['message_id']}"
    return None


def _needles(given: str, *, substring: bool) -> list[str]:
    """Return what is marked in snippets."""
    if substring:
        return [given.strip()]
    return [
        word for word in re.findall(r"[^\s\"]+", given) if word.lower() != "or" and not word.startswith("-")
    ]


def snippet_of(text: str, needles: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Return one line around the first match, and the places in it that match (case and accents aside)."""
    line = " ".join(text.split())
    places = _places(line, needles)
    begin = max(0, (places[0][0] if places else 0) - _BEFORE)
    end = min(len(line), begin + _BEFORE + _AFTER)
    before, after = "…" if begin else "", "…" if end < len(line) else ""
    shift = len(before) - begin
    marks = [(first + shift, min(last, end) + shift) for first, last in places if begin <= first < end]
    return before + line[begin:end] + after, marks


def _places(line: str, needles: Sequence[str]) -> list[tuple[int, int]]:
    """Return where the needles are in the line: whole words where they begin and end with letters."""
    folded = "".join(map(_folded, line))  # one character for each
    found: set[tuple[int, int]] = set()
    for needle in filter(None, ("".join(map(_folded, each)) for each in needles)):
        at = folded.find(needle)
        while at >= 0:
            found.add((at, at + len(needle)))
            at = folded.find(needle, at + len(needle))
    return sorted(found)


def _folded(character: str) -> str:
    """Return one character in small letters without its accent."""
    plain = unicodedata.normalize("NFD", character)[0].casefold()
    return plain if len(plain) == 1 else character
