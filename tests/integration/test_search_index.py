"""The index of `tdp search`: what changes, loads beside it, and a server without the extensions."""

from __future__ import annotations

import random
import uuid
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import psycopg
import pytest
from chat_tables import run_tdp as run
from converted import Export, store, write
from psycopg.conninfo import make_conninfo
from searches import TEXTS, found, ids, index_all

from flows import services
from flows.ledger.connection import connection
from flows.ledger.locks import INDEXING
from flows.ledger.named_sql import load
from flows.ledger.schema_version import migrate
from flows.reports import frames
from flows.tables.search_index import Indexed, rebuild

#: What nothing but a load changes: numbers of rows.
KEPT = """
SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM message_versions),
       (SELECT count(*) FROM chat_exports), (SELECT count(*) FROM missing_messages)
"""


def extend(postgres: str, name: str) -> None:
    with psycopg.connect(make_conninfo(postgres, dbname=name), autocommit=True) as admin:
        admin.execute("CREATE EXTENSION unaccent")
        admin.execute("CREATE EXTENSION pg_trgm")


def test_what_changes_is_found_as_it_is_now(database_url: str, tmp_path: Path) -> None:
    """Random loads, joins of chats and indexing in between: it finds the same messages as a comparison of
    each message."""
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


def test_a_search_that_waits_for_a_rebuild_finds_all(database_url: str, tmp_path: Path) -> None:
    """The rebuild waits for a session that reads the index, and the search for the rebuild."""
    texts = [(number, number, text) for number, text in TEXTS.items()]
    store(database_url, write(tmp_path / "1", Export(1, "channel77", "News", texts)))
    index_all(database_url)
    expected = ids(database_url, "fox")
    waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'search_documents'::regclass AND NOT granted"

    def rebuilt() -> None:
        with connection(database_url) as ledger:
            rebuild(ledger)

    with (
        psycopg.connect(database_url) as reading,
        psycopg.connect(database_url, autocommit=True) as watching,
        ThreadPoolExecutor(2) as pool,
    ):
        reading.execute("SELECT count(*) FROM search_documents")
        works = []
        for number, work in enumerate([rebuilt, lambda: ids(database_url, "fox")], 1):
            works.append(pool.submit(work))
            while (watching.execute(waiting).fetchone() or (0,))[0] < number:
                assert not works[-1].done()
        reading.rollback()
        assert works[0].result() is None
        assert works[1].result() == expected == [1, 9]


def test_only_one_session_indexes(database_url: str, tmp_path: Path) -> None:
    assert found(database_url, "fox").pending_sources == 0
    store(database_url, write(tmp_path / "1", Export(1, "channel1", "One", [(1, 1, "old")])))
    inner: list[Indexed] = []
    with connection(database_url) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [INDEXING])
        inner.append(index_all(database_url))
        said = run(database_url, "search", "--index").stderr
        holder.rollback()
    assert inner == [Indexed(is_elsewhere=True)]
    assert said.startswith("Another session is indexing")
    assert run(database_url, "search", "--index").stderr.startswith("1 messages of 1 file indexed\n")
    assert run(database_url, "search", "--index").stderr.startswith("Nothing to index")


def test_without_extensions_search_names_them_and_works_with_less(postgres: str, tmp_path: Path) -> None:
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
        assert (f"{len(TEXTS)} messages of 1 file indexed" in rebuilt.stderr, "Café" in rebuilt.stdout) == (
            True,
            True,
        )
        assert "no extension" not in rebuilt.stderr
        assert ids(url, "acad", substring=True) == [2]
        with psycopg.connect(url) as opened:
            assert opened.execute(KEPT).fetchall() == before
            assert opened.execute("SELECT to_regclass('search_substrings')").fetchone() != (None,)
    finally:
        with psycopg.connect(postgres, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
            admin.execute("DROP ROLE may_not_extend")
