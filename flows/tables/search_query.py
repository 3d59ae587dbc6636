"""The words of a user, as a query of PostgreSQL.

Groups of phrases: a message must fit one group at least, with all its phrases, without those with a minus.
A word is a phrase too: ``foo/bar`` and ``iPhone手机`` are several words for the parser, in this order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from flows.errors import QueryUnclear
from flows.ledger.connection import Connection
from flows.ledger.named_sql import load

#: Words of a phrase that are compared in their order; PostgreSQL keeps at most 256 places of a word.
_IN_ORDER = 128
#: A phrase in quotes, which may lack the last quote, or a word.
_PART = re.compile(r'(?P<minus>-?)["“”](?P<phrase>[^"“”]*)["“”]?|(?P<word>[^\s"“”]+)')
#: Characters of a query that an error shows.
_SHOWN = 60
#: Words and pairs in a query: with a few more, PostgreSQL reaches its stack depth limit. Messages of Telegram
#: have fewer.
_MOST_WORDS = 10_000
#: A word in the text form of a tsquery, which doubles quotes and backslashes.
_LEXEME = re.compile(r"'((?:[^'\\]|''|\\\\)*)'")
#: The operators for words at a distance.
_DISTANCE = re.compile(r"('(?:[^'\\]|''|\\\\)*')|<(?:-|\d+)>")
_sql = load("search.sql")


class Phrase(NamedTuple):
    """Words that follow each other, as they were given; must not occur if ``without``."""

    text: str
    without: bool = False


class Query(NamedTuple):
    """A query for websearch_to_tsquery, and cheaper conditions that are checked first.

    ``exact`` is its tsquery. ``loose`` is a tsquery that every match fits: without distances, which the index
    does not store. ``patterns`` are LIKE patterns of which the plain text of a match fits ``every`` one, or
    at least one.
    """

    words: str
    exact: str
    loose: str
    patterns: list[str]
    every: bool


def groups(given: str) -> list[list[Phrase]]:
    """Return the phrases of a query in their groups, which ``or`` separates."""
    found: list[list[Phrase]] = [[]]
    parts = list(_PART.finditer(given))
    for number, part in enumerate(parts):
        word = part["word"]
        if word is None:
            found[-1].append(Phrase(part["phrase"], bool(part["minus"])))
        elif word.lower() == "or" and found[-1] and number < len(parts) - 1:
            found.append([])
        else:
            found[-1].append(Phrase(word.lstrip("-"), word.startswith("-")) if word != "-" else Phrase(word))
    return found


def needles(given: str) -> list[str]:
    """Return the words and phrases that a match may contain, as they were given."""
    return [each.text for group in groups(given) for each in group if not each.without]


def query(connection: Connection, given: str) -> Query:
    """Return the query for the words that are given. Raises QueryUnclear if none must occur, or too many."""
    asked = groups(given)
    texts = [each.text for group in asked for each in group]
    phrases = iter(_sql.phrases(connection, given=texts))
    words = " or ".join(" ".join(_quoted(next(phrases), each) for each in group) for group in asked)
    if len(words.split()) > _MOST_WORDS:
        raise QueryUnclear(
            "the text is too long for a search by words: name a part of it, or add --substring"
        )
    found = _sql.parsed(connection, words=words)
    whole, positive = found["whole"], found["positive"]
    if not whole:
        raise QueryUnclear(_without_words(given))
    if positive == "T":
        raise QueryUnclear("name at least one word that must occur: all messages without a word are too many")
    lexemes = [re.sub(r"(['\\])\1", r"\1", word) for word in _LEXEME.findall(positive)]
    return Query(
        words,
        whole,
        whole if _loose(whole) == whole else _loose(positive),
        [pattern(lexeme) for lexeme in lexemes],
        "|" not in _LEXEME.sub("", positive),
    )


def _without_words(given: str) -> str:
    shown = given if len(given) <= _SHOWN else f"{given[:_SHOWN]}…"
    if any(map(str.isalnum, given)):
        return f"{shown} is longer than a word that is searched: 2,046 bytes at most. --substring finds it"
    return f"{shown} has no letter and no digit, and words are searched: --substring finds other characters"


def pattern(part: str) -> str:
    """Return the LIKE pattern of the texts that contain ``part``."""
    return "%" + re.sub(r"([\\%_])", r"\\\1", part) + "%"


def _quoted(phrase: str, asked: Phrase) -> str:
    """Return a phrase in the syntax of websearch_to_tsquery; of a very long one the end in any order."""
    words = phrase.replace('"', " ").split()
    if asked.without:
        return f'-"{" ".join(words)}"'
    parts: Sequence[str] = [" ".join(words[:_IN_ORDER]), *dict.fromkeys(words[_IN_ORDER:])]
    return " ".join(f'"{part}"' for part in parts)


def _loose(tsquery: str) -> str:
    return _DISTANCE.sub(lambda found: found[1] or "&", tsquery)
