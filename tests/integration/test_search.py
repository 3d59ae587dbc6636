"""`tdp search` finds what is stored, indexed or not, and shows where it is."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Any

import psycopg
import pytest
from chat_tables import run_tdp as run
from converted import Export, store, write
from psycopg.conninfo import make_conninfo

from flows import services
from flows.errors import ChatUnknown, QueryTimedOut, QueryUnclear
from flows.ledger.connection import connection
from flows.ledger.locks import INDEXING
from flows.ledger.named_sql import load
from flows.ledger.schema_version import migrate
from flows.reports import frames
from flows.tables.orders import Choice
from flows.tables.search import Found, search, snippet_of
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
}


#: What nothing but a load changes: numbers of rows.
KEPT = """
SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM message_versions),
       (SELECT count(*) FROM chat_exports), (SELECT count(*) FROM missing_messages)
"""


def extend(postgres: str, name: str) -> None:
    with psycopg.connect(make_conninfo(postgres, dbname=name), autocommit=True) as admin:
        admin.execute("CREATE EXTENSION unaccent")
        admin.execute("CREATE EXTENSION pg_trgm")


@pytest.fixture(params=["indexed", "pending"])
def filled(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Iterator[str]:
    """URL of a database with texts in several scripts, indexed or not."""
    messages = [(number, number, text) for number, text in TEXTS.items()]
    export = Export(1, "channel77", "News", messages, sender=("user1", "Ann Lee"))
    store(database_url, write(tmp_path / "1", export))
    other = Export(2, "user5@user9", "Bob", [(1, 60, "the fox of Bob")], sender=("user5", "Bob"))
    store(database_url, write(tmp_path / "2", other))
    if request.param == "indexed":
        assert index_all(database_url).written == len(TEXTS) + 1
    yield database_url


def index_all(url: str) -> Indexed:
    with connection(url) as ledger:
        return index(ledger)


def found(url: str, given: str, **options: Any) -> Found:
    choice = options.pop("choice", Choice())
    with connection(url, readonly=True, autocommit=True) as ledger:
        return search(ledger, given, choice, **options)


def ids(url: str, given: str, **options: Any) -> list[int]:
    return sorted(hit.message_id for hit in found(url, given, **options).hits)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("fox dog", [1]),
        ("FOX -dog", [1, 9]),
        ('"brown fox"', [1]),
        ('"fox brown"', []),
        ("lazy or Москва", [1, 3]),
        ("cafe CRÈME", [2]),
        ("москва", [3]),
        ("北京", [4]),
        ("北京大学", [4]),
        ("京北", []),
        ("学北", []),
        ("北", [4, 10]),
        ("ชาว", [5]),
        ("タワー", [6]),
        ("东京", []),
        ("quic", []),
        ("السلف", [11]),
        ("nothing", []),
        ("nothing or fox", [1, 1, 9]),
        ('"third dog" or "at the end" -lazy', [7, 9]),
        ("北京大学 -好", [4]),
        ("北京 -猫", [4]),
        ("fox 北", []),
        ("我爱 -北京大学", []),
        ("我爱 -北京大楼", [4]),
        ("我 -北京的", [4]),
        ("fox — dog", [1]),
        ("fox - dog", [1]),
        ("sure", [8]),
        ("o'fox \\", []),
    ],
)
def test_words_are_found(filled: str, given: str, expected: list[int]) -> None:
    assert ids(filled, given) == expected


def test_a_query_without_a_word_that_must_occur_is_refused(filled: str) -> None:
    for given in ("-dog", "fox or -dog", "!!! -dog", "-北京", "!!!", '""', "😀 🎉", "・", "— …"):
        reason = "at least one word" if "-" in given else "no letter and no digit.*--substring"
        with pytest.raises(QueryUnclear, match=reason):
            found(filled, given)
        assert ids(filled, given, substring=True) == []
    with pytest.raises(QueryUnclear, match="too long"):
        found(filled, "".join(map(chr, range(0x4E00, 0x4E00 + 6000))))
    assert ids(filled, "".join(map(chr, range(0x4E00, 0x4E00 + 4096)))) == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("uick bro", [1]),
        ("ACAD", [2]),
        ("скв", [3]),
        ("%_s", [8]),
        ("\\ n", [8]),
        ("q_ick", []),
        ("京大学", [4]),
    ],
)
def test_parts_of_words_are_found(filled: str, given: str, expected: list[int]) -> None:
    assert ids(filled, given, substring=True) == expected


def test_the_best_match_comes_first(filled: str) -> None:
    assert [hit.message_id for hit in found(filled, "dog").hits] == [7, 1]
    assert len(found(filled, "dog", limit=1).hits) == 1


def test_chat_sender_and_time_are_chosen(filled: str) -> None:
    assert {hit.chat_key for hit in found(filled, "fox", sender="bob").hits} == {"user5@user9"}
    assert {hit.chat_key for hit in found(filled, "fox", sender="user1").hits} == {"channel77"}
    assert ids(filled, "fox", choice=Choice(["channel77"])) == [1, 9]
    moment = found(filled, "lazy").hits[0].sent_at
    assert ids(filled, "fox", choice=Choice(since=moment, until=moment)) == []
    assert ids(filled, "fox", choice=Choice(until=moment)) == []


def test_a_hit_has_a_link_where_there_is_one(filled: str) -> None:
    links = {hit.chat_key: hit.link for hit in found(filled, "fox").hits}
    assert links == {"user5@user9": None, "channel77": None}  # the id of the channel is not known
    with psycopg.connect(filled) as opened:
        opened.execute("UPDATE chats SET chat_id = 77 WHERE chat_key = 'channel77'")
    assert found(filled, "lazy").hits[0].link == "https://t.me/c/77/1"
    with psycopg.connect(filled) as opened:
        opened.execute("""UPDATE chats SET extra = '{"username": "news"}' WHERE chat_key = 'channel77'""")
    assert found(filled, "lazy").hits[0].link == "https://t.me/news/1"


def test_the_command_shows_hits_and_says_what_is_not_indexed(filled: str) -> None:
    done = run(filled, "search", "lazy", "fox")
    assert done.exit_code == 0
    assert "Ann Lee  News" in done.stdout
    assert "The quick brown fox" in done.stdout
    pending = found(filled, "fox").pending_sources
    assert (" that are not indexed yet were searched, too" in done.stderr) == bool(pending)
    assert "No messages match." in run(filled, "search", "nothing").stdout
    (hit, *_) = json.loads(run(filled, "search", "--json", "cafe").stdout)["hits"]
    assert hit["snippet"][slice(*hit["marks"][0])] == "Café"
    assert run(filled, "search").exit_code == 2
    assert "`tdp search fox -- -dog`" in run(filled, "search", "fox", "-dog").stderr
    assert "No such option: --dog" in run(filled, "search", "fox", "--dog").stderr
    assert "Москва" in run(filled, "search", "слезам", "--", "-dog").stdout
    assert isinstance(run(filled, "search", "fox", "--chat", "none").exception, ChatUnknown)
    run(filled, "search", "--index")
    assert found(filled, "fox").pending_sources == 0


def test_a_search_that_takes_too_long_is_ended(database_url: str) -> None:
    with psycopg.connect(database_url) as opened:
        opened.execute("ALTER TABLE search_documents RENAME TO kept")
        opened.execute("CREATE VIEW search_documents AS SELECT kept.* FROM kept, pg_sleep(30)")
    assert isinstance(run(database_url, "search", "fox", "--timeout", "0.2").exception, QueryTimedOut)


def test_what_changes_is_found_as_it_is_now(database_url: str, tmp_path: Path) -> None:
    """Random loads, joins of chats and indexing in between: it finds what a look at each message finds."""
    rng = random.Random(5)
    words = ["alpha", "beta", "gamma", "delta"]
    keys = ["html-1~a", "html-1~b", "user5~a", "user5@user9", "channel7"]
    for source in range(1, 25):
        numbers = sorted(rng.sample(range(1, 9), rng.randint(1, 6)))
        texts = [(n, n + rng.choice([0, 0, 0, 50]), rng.choice(words)) for n in numbers]
        store(database_url, write(tmp_path / str(source), Export(source, rng.choice(keys), "Anna", texts)))
        if rng.random() < 0.4:
            index_all(database_url)
        for word in words:
            with psycopg.connect(database_url) as opened:
                rows = opened.execute(
                    "SELECT chat_key, message_id FROM messages WHERE text = %s", [word]
                ).fetchall()
            hits = found(database_url, word, limit=1000).hits
            assert sorted((hit.chat_key, hit.message_id) for hit in hits) == sorted(rows)
    index_all(database_url)
    with psycopg.connect(database_url) as opened:
        left = opened.execute("SELECT count(*) FROM search_documents").fetchone()
        assert left == opened.execute("SELECT count(*) FROM messages").fetchone()


def test_a_match_older_than_all_that_the_index_proposes_is_found(database_url: str, tmp_path: Path) -> None:
    """10,700 later messages have the same words in another order, 600 still later ones had the words."""
    old = Export(1, "channel1", "One", [(1, 1, "beta alpha たのしい一日")])
    store(database_url, write(tmp_path / "1", old))
    others = [(n, n, "alpha beta 見たのは私のしごとしい") for n in range(2, 10_702)]
    store(database_url, write(tmp_path / "2", Export(2, "channel2", "Two", others)))
    changed = [(n, n, "beta alpha たのしい") for n in range(11_000, 11_600)]
    store(database_url, write(tmp_path / "3", Export(3, "channel3", "Three", changed)))
    index_all(database_url)
    changes = [(n, n + 2_000_000, "gamma") for n in range(11_000, 11_600)]
    store(database_url, write(tmp_path / "4", Export(4, "channel3", "Three", changes)))
    for given in ("たのしい", '"beta alpha"', "一日 -gamma"):
        assert (given, ids(database_url, given, limit=500)) == (given, [1])
    assert ids(database_url, "のしい", substring=True) == [1]
    some = run(database_url, "search", "alpha")
    assert "these are the best of the latest 500" in some.stderr
    assert (found(database_url, "gamma", limit=700).latest, found(database_url, "gamma").latest) == (
        None,
        500,
    )


def test_a_load_does_not_wait_for_indexing_nor_indexing_for_a_load(database_url: str, tmp_path: Path) -> None:
    first = Export(1, "channel1", "One", [(n, n, f"old {n}") for n in range(400)])
    store(database_url, write(tmp_path / "1", first))
    changed = Export(2, "channel1", "One", [(n, n + 500, f"new {n}") for n in range(400)])
    impatient = f"{database_url}&options=-c%20lock_timeout%3D1s"
    statements = load("search.sql", as_dicts=False)
    with connection(impatient) as indexer:
        portion = statements.take_pending(indexer, most=20)
        assert statements.index_sources(indexer, sources=portion) == 400
        store(impatient, write(tmp_path / "2", changed))
        assert ids(impatient, "new", limit=2000) == list(range(400))
        indexer.commit()
    assert ids(database_url, "new", limit=2000) == list(range(400))
    assert index_all(database_url) == Indexed(1, 400, 0)
    assert (ids(database_url, "old", limit=2000), len(ids(database_url, "new", limit=2000))) == ([], 400)


def test_a_load_of_100_000_rows_waits_for_no_command(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Export(1, "channel1", "One", [(n, n, f"old {n}") for n in range(2000)])
    store(database_url, write(tmp_path / "1", first))
    large = write(
        tmp_path / "2", Export(2, "channel1", "One", [(n, n + 1, "new words") for n in range(100_000)])
    )
    commands = [
        ("search", "new", "--index"),
        ("search", "--substring", "ord"),
        ("export", tmp_path / "all.csv", "--force"),
        ("export", tmp_path / "all.parquet", "--force"),
        ("stats", "--picture", tmp_path / "all.svg", "--force"),
        ("chat", "channel1"),
        *(
            ("export", tmp_path / f"some.{suffix}", "--force", "--until", "2024-05-02")
            for suffix in ("sqlite", "duckdb", "xlsx")
        ),
    ]
    monkeypatch.setenv("TDP_DATABASE_URL", database_url)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(store, f"{database_url}&options=-c%20lock_timeout%3D500ms", large)
        for turn, command in enumerate(cycle(commands)):
            assert run(database_url, *command).exit_code == 0
            assert len(frames.messages(columns=["text"], until="2024-05-02"))
            if loading.done() and turn >= len(commands) - 1:
                break
        assert loading.result() == 98_000


def test_only_one_session_indexes(database_url: str, tmp_path: Path) -> None:
    assert found(database_url, "fox").pending_sources == 0
    store(database_url, write(tmp_path / "1", Export(1, "channel1", "One", [(1, 1, "old")])))
    inner: list[Indexed] = []
    with connection(database_url) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [INDEXING])
        inner.append(index_all(database_url))
        holder.rollback()
    assert inner == [Indexed()]
    assert index_all(database_url).written == 1


def test_without_extensions_it_says_so_and_does_what_it_can(postgres: str, tmp_path: Path) -> None:
    name = f"t_{uuid.uuid4().hex[:12]}"
    services.ensure_database(postgres, name)
    url = postgres.replace("/postgres?", f"/{name}?").replace("postgres@", "may_not_extend@")
    with psycopg.connect(make_conninfo(postgres, dbname=name), autocommit=True) as admin:
        admin.execute("CREATE ROLE may_not_extend LOGIN")
        admin.execute("GRANT ALL ON SCHEMA public TO may_not_extend")
    try:
        migrate(url)
        texts = [(n, n, t) for n, t in TEXTS.items()]
        store(url, write(tmp_path / "1", Export(1, "channel77", "News", texts)))
        for _ in range(2):
            assert ids(url, "café crème") == [2]
            assert ids(url, "façade", substring=True) == [2]
            assert (ids(url, "cafe"), ids(url, "uick", substring=True), ids(url, "北京")) == ([], [1], [4])
            index_all(url)
        assert found(url, "fox").missing_extensions == ["pg_trgm", "unaccent"]
        assert "has no extension pg_trgm and unaccent" in run(url, "search", "fox").stderr
        assert "has no extension pg_trgm and unaccent" in run(url, "search", "--rebuild").stderr
        extend(postgres, name)
        with psycopg.connect(url) as opened:
            before = opened.execute(KEPT).fetchall()
        rebuilt = run(url, "search", "cafe", "--rebuild")
        assert ("11 messages of 1 file indexed" in rebuilt.stderr, "Café" in rebuilt.stdout) == (True, True)
        assert "no extension" not in rebuilt.stderr
        assert ids(url, "acad", substring=True) == [2]
        with psycopg.connect(url) as opened:
            assert opened.execute(KEPT).fetchall() == before
            assert opened.execute("SELECT to_regclass('search_substrings')").fetchone() != (None,)
    finally:
        with psycopg.connect(postgres, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
            admin.execute("DROP ROLE may_not_extend")


def test_a_snippet_is_one_line_around_the_first_match() -> None:
    text = "word " * 50 + "\n\nthe NEEDLE is here " + "word " * 50
    snippet, marks = snippet_of(text, ["needle"])
    assert snippet.startswith("…")
    assert snippet.endswith("…")
    assert [snippet[first:end] for first, end in marks] == ["NEEDLE"]
    assert snippet_of("short", ["other"]) == ("short", [])
    assert snippet_of("", ["x"]) == ("", [])
