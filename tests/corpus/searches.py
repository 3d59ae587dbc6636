"""Index and search the messages of a database, as `tdp search` does."""

from __future__ import annotations

from typing import Any

from flows.ledger.connection import connection
from flows.tables.orders import Choice
from flows.tables.search import Found, search
from flows.tables.search_index import Indexed, index

TEXTS = {
    1: "The quick brown fox jumps over the lazy dog",
    2: "Café crème, naïve façade",
    3: "Москва слезам не верит",
    4: "我爱北京大学的图书馆",
    5: "สวัสดีชาวโลก",
    6: "東京タワーに行きました",
    7: "A dog and another dog, and a third dog",
    8: "100%_sure \\ not",
    9: "fox at the end: fox",
    10: "北大",
    11: "حال السَّلَفِ مع القرآن",
    12: "https://github.com/foo/bar?x=1 hello.World either/or 10-20 anna@example.org 上海.v2",
}


def index_all(url: str) -> Indexed:
    with connection(url) as ledger:
        return index(ledger)


def found(url: str, given: str, **options: Any) -> Found:
    choice = options.pop("choice", Choice())
    with connection(url, readonly=True, autocommit=True) as ledger:
        return search(ledger, given, choice, **options)


def ids(url: str, given: str, **options: Any) -> list[int]:
    return sorted(hit.message_id for hit in found(url, given, **options).hits)
