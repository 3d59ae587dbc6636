"""`tdp search` finds what is stored, indexed or not, and shows where it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from chat_tables import run_tdp as run
from converted import Export, store, write
from searches import TEXTS, found, ids, index_all

from flows.errors import ChatUnknown, QueryTimedOut, QueryUnclear
from flows.tables.orders import Choice


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
        ("github", [12]),
        ("github.com", [12]),
        ("com.github", []),
        ("foo/bar", [12]),
        ("hello", [12]),
        ("world either", [12]),
        ("20", [12]),
        ("anna@example.org", [12]),
        ("example", [12]),
        ("v2", [12]),
        ("上海.v2", [12]),
        ("anna -foo", []),
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
    with pytest.raises(QueryUnclear, match=r"^a{60}… is longer than a word"):
        found(filled, "a" * 3000)
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
    assert (" that are not indexed yet were compared" in done.stderr) == bool(pending)
    assert "No messages match." in run(filled, "search", "nothing").stdout
    (hit, *_) = json.loads(run(filled, "search", "--json", "cafe").stdout)["hits"]
    assert hit["snippet"][slice(*hit["marks"][0])] == "Café"
    assert run(filled, "search").exit_code == run(filled, "search", "fox", "--from", "").exit_code == 2
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
