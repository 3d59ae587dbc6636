"""Floating chats find the chat they are, and the tables depend on what was loaded, never on the order."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg import sql

from flows.exports.columns import CHATS, MESSAGES
from flows.stages.runner.contract import FileOutcome, Result, read_result, write_result
from flows.stages.store.stage import joining, main

START = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)
TABLES = ["chats", "messages", "chat_aliases", "chat_clues", "joined_chats", "joined_messages"]


class Export(NamedTuple):
    """One chat in one source file; messages are (id, minute sent, text)."""

    source: int
    key: str
    name: str | None
    messages: Sequence[tuple[int, int, str]]
    utc: bool = True
    type: str | None = None


def rows(export: Export) -> list[dict[str, Any]]:
    form = "html" if export.key.startswith("html-") else "json"
    return [
        {
            "chat_key": export.key,
            "message_id": number,
            "type": "message",
            "sent_at": START + dt.timedelta(minutes=minute) if export.utc else None,
            "sent_local": START.replace(tzinfo=None) + dt.timedelta(minutes=minute),
            "text": text,
            "revision": f"{minute:03d}-{form}-{sha256(f'{text}{export.utc}'.encode()).hexdigest()[:8]}",
            "source": f"{export.source:06d}-a.zip",
        }
        for number, minute, text in export.messages
    ]


def write(folder: Path, *exports: Export) -> Path:
    """Write what convert would have written for these exports as one batch."""
    folder.mkdir(parents=True)
    chats: list[dict[str, Any]] = [
        {
            "chat_key": export.key,
            "name": export.name,
            "type": export.type,
            "form": "html" if export.key.startswith("html-") else "json",
            "source": f"{export.source:06d}-a.zip",
            "messages": len(export.messages),
        }
        for export in exports
    ]
    messages = [row for export in exports for row in rows(export)]
    pq.write_table(pa.Table.from_pylist(chats, CHATS), folder / "chats.parquet")
    pq.write_table(pa.Table.from_pylist(messages, MESSAGES), folder / "messages.parquet")
    write_result(folder, Result("convert", [FileOutcome(chat["source"]) for chat in chats]))
    return folder


def store(url: str, folder: Path) -> int:
    """Store a batch and return what it says the table of messages grew by."""
    output = folder.with_name(f"out-{os.urandom(6).hex()}")
    assert main([str(folder), str(output)], {"TDP_DATABASE_URL": url}) == 0
    result = read_result(output)
    assert result is not None
    return result.counts["rows_new"]


def state(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables that the stage writes."""
    with psycopg.connect(url) as connection:
        return {
            name: connection.execute(
                sql.SQL("SELECT t::text FROM {} t ORDER BY 1").format(sql.Identifier(name))
            ).fetchall()
            for name in TABLES
        }


def clear(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(sql.SQL("TRUNCATE {}").format(sql.SQL(", ").join(map(sql.Identifier, TABLES))))


def visible(url: str) -> dict[str, list[int]]:
    """Message ids by chat, of all chats there are."""
    with psycopg.connect(url) as connection:
        return dict(
            connection.execute(
                "SELECT c.chat_key, array_agg(m.message_id ORDER BY m.message_id)"
                " FROM chats c LEFT JOIN messages m USING (chat_key) GROUP BY c.chat_key"
            ).fetchall()
        )


def in_all_orders(url: str, folder: Path, *exports: Export) -> dict[str, list[int]]:
    """Store the exports as batches of their own in many orders, then as one batch: all must end alike."""
    batches = [write(folder / str(n), export) for n, export in enumerate(exports)]
    orders = list(itertools.permutations(batches))
    ends = []
    for order in random.Random(1).sample(orders, min(12, len(orders))):
        clear(url)
        for batch in order:
            store(url, batch)
        ends.append(state(url))
    clear(url)
    store(url, write(folder / "all", *exports))
    ends.append(state(url))
    assert all(end == ends[0] for end in ends)
    return visible(url)


HELLO = [(1, 1, "hello"), (2, 2, "there"), (3, 3, "")]


def test_html_joins_the_json_chat_of_its_name(database_url: str, tmp_path: Path) -> None:
    more = [*HELLO, (4, 4, "only in html")]
    html = Export(1, "html-0123", "Anna", [(n, minute, f" {text}\n") for n, minute, text in more])
    found = in_all_orders(database_url, tmp_path, html, Export(2, "channel7", "Anna", HELLO))
    assert found == {"channel7": [1, 2, 3, 4]}
    with psycopg.connect(database_url) as connection:
        texts = connection.execute(
            "SELECT text, joined_from, source_id FROM messages ORDER BY message_id"
        ).fetchall()
        aliases = connection.execute("SELECT * FROM chat_aliases").fetchall()
    assert texts[0] == ("hello", None, 2), "JSON wins"
    assert texts[3] == (" only in html\n", "html-0123", 1)
    assert aliases == [("html-0123", "channel7")]


@pytest.mark.parametrize("old", ["json", "html"])
def test_times_are_compared_locally_where_one_side_has_no_zone(
    database_url: str, tmp_path: Path, old: str
) -> None:
    html = Export(1, "html-0123", "Anna", HELLO, utc=old == "json")
    assert in_all_orders(
        database_url, tmp_path, html, Export(2, "channel7", "Anna", HELLO, utc=old == "html")
    ) == {"channel7": [1, 2, 3]}


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("Bob", HELLO),
        ("Anna", []),
        ("Anna", [(7, 7, "no id in common")]),
        ("Anna", [(1, 1, "another text"), (2, 2, "altogether")]),
        ("Anna", [(1, 1, "hello"), (2, 9, "there")]),
    ],
    ids=["name", "empty", "ids", "texts", "times"],
)
def test_without_proof_chats_stay_apart(
    database_url: str, tmp_path: Path, name: str, messages: list[tuple[int, int, str]]
) -> None:
    exports = [Export(1, "html-0123", "Anna", HELLO), Export(2, "channel7", name, messages)]
    assert set(in_all_orders(database_url, tmp_path, *exports)) == {"html-0123", "channel7"}


def test_html_finds_a_chat_that_was_renamed(database_url: str, tmp_path: Path) -> None:
    exports = [
        Export(1, "html-0123", "Anna", HELLO),
        Export(2, "channel7", "Anna", []),
        Export(3, "channel7", "Anna  Maria", HELLO),
    ]
    assert in_all_orders(database_url, tmp_path, *exports) == {"channel7": [1, 2, 3]}


def test_html_finds_saved_messages(database_url: str, tmp_path: Path) -> None:
    exports = [
        Export(1, "html-0123", "Saved Messages", HELLO),
        Export(2, "user9@user9", None, HELLO, type="saved_messages"),
        Export(3, "user8@user8", None, [(1, 5, "not mine")], type="saved_messages"),
    ]
    assert in_all_orders(database_url, tmp_path, *exports) == {"user9@user9": [1, 2, 3], "user8@user8": [1]}


def test_a_peer_joins_the_account_that_shares_its_messages(database_url: str, tmp_path: Path) -> None:
    exports = [
        Export(1, "user5", "Anna", HELLO),
        Export(2, "user5@user8", "Anna", [(1, 5, "hello")]),
        Export(3, "user5@user9", "A.", [*HELLO, (8, 8, "more")]),
        Export(4, "user6@user9", "Anna", HELLO),
    ]
    assert in_all_orders(database_url, tmp_path, *exports) == {
        "user5@user8": [1],
        "user5@user9": [1, 2, 3, 8],
        "user6@user9": [1, 2, 3],
    }


def test_html_joins_a_chat_that_itself_joins_another(database_url: str, tmp_path: Path) -> None:
    exports = [
        Export(1, "html-0123", "Anna", [(1, 1, "hello"), (2, 2, "html")]),
        Export(2, "user5", "Anna", [(1, 1, "hello"), (3, 3, "there")]),
        Export(3, "user5@user9", "Anna from work", [(3, 3, "there"), (4, 4, "more")]),
    ]
    assert in_all_orders(database_url, tmp_path, *exports) == {"user5@user9": [1, 2, 3, 4]}


def test_a_later_contradiction_parts_what_was_joined(database_url: str, tmp_path: Path) -> None:
    exports = [
        Export(1, "html-0123", "Anna", HELLO),
        Export(2, "channel7", "Anna", HELLO[:2]),
        Export(3, "html-0123", "Anna", [(5, 5, "of another Anna")]),
        Export(4, "channel7", "Anna", [(5, 6, "of this Anna")]),
    ]
    assert in_all_orders(database_url, tmp_path, *exports) == {
        "html-0123": [1, 2, 3, 5],
        "channel7": [1, 2, 5],
    }


def test_floating_chats_of_one_name_join_each_other_along_a_chain(database_url: str, tmp_path: Path) -> None:
    days = [(n, n, f"day {n}") for n in range(10)]
    exports = [
        Export(1, "html-0123~b", "Anna", days[4:7]),
        Export(2, "html-0123~a", "Anna", days[0:3]),
        Export(3, "html-0123~d", "Anna", days[6:9]),
        Export(4, "html-0123~c", "Anna", days[2:5]),
        Export(5, "html-0123~e", "Anna", days[9:]),
    ]
    assert in_all_orders(database_url, tmp_path, *exports) == {
        "html-0123~a": list(range(9)),
        "html-0123~e": [9],
    }


def test_a_chain_ends_at_the_chat_that_is_known_best(database_url: str, tmp_path: Path) -> None:
    exports = [
        Export(1, "html-0123~a", "Anna", [(1, 1, "hello"), (2, 2, "there")]),
        Export(2, "html-0123~b", "Anna", [(2, 2, "there"), (3, 3, "you")]),
        Export(3, "user5~d", "Anna", [(3, 3, "you"), (4, 4, "are")]),
        Export(4, "user5~c", "A.", [(4, 4, "are"), (5, 5, "!")]),
        Export(5, "user5@user9", "Work", [(5, 5, "!")]),
    ]
    assert in_all_orders(database_url, tmp_path, *exports[:4]) == {"user5~c": [1, 2, 3, 4, 5]}
    clear(database_url)
    assert in_all_orders(database_url, tmp_path / "more", *exports) == {"user5@user9": [1, 2, 3, 4, 5]}


def test_two_peoples_chats_of_one_name_and_the_same_ids_stay_apart(database_url: str, tmp_path: Path) -> None:
    exports = [
        Export(1, "html-0123~a", "Saved Messages", HELLO),
        Export(2, "html-0123~b", "Saved Messages", [(n, minute + 60, text) for n, minute, text in HELLO]),
        Export(3, "user5~c", "Anna", [(n, minute + 120, text) for n, minute, text in HELLO]),
        Export(4, "user5~d", "Anna", [(n, minute + 180, text) for n, minute, text in HELLO]),
    ]
    assert in_all_orders(database_url, tmp_path, *exports) == {export.key: [1, 2, 3] for export in exports}


def test_html_finds_a_floating_chat_that_was_renamed_by_where_it_begins(
    database_url: str, tmp_path: Path
) -> None:
    exports = [
        Export(1, "html-0123~a", "Anna", HELLO),
        Export(2, "html-4567~a", None, [*HELLO, (4, 4, "since deleted")]),
        Export(3, "html-89ab~a", "Bob", [(1, 60, "hello")]),
    ]
    assert in_all_orders(database_url, tmp_path, *exports) == {
        "html-0123~a": [1, 2, 3, 4],
        "html-89ab~a": [1],
    }


def test_no_chain_joins_what_contradicts_itself(database_url: str, tmp_path: Path) -> None:
    """One in the middle could be either's: it goes to the better known; no message takes another's place."""
    exports = [
        Export(1, "user5@user9", "A.", [(1, 1, "hello"), (3, 3, "of the one")]),
        Export(2, "user5~a", "Anna", [(1, 1, "hello"), (2, 2, "there")]),
        Export(3, "html-0123~a", "Anna", [(2, 2, "there"), (3, 9, "of the other")]),
        Export(4, "html-0123~b", "Anna", [(3, 9, "of the other"), (4, 4, "!")]),
    ]
    assert in_all_orders(database_url, tmp_path, *exports) == {
        "user5@user9": [1, 2, 3],
        "html-0123~a": [2, 3, 4],
    }


def test_services_contradict_too(database_url: str, tmp_path: Path) -> None:
    first, second = (
        write(tmp_path / str(n), Export(n, f"user5~{n}", "Anna", [(1, 1, "hello"), (2, n, "")]))
        for n in (1, 2)
    )
    for folder in (first, second):
        table = pq.read_table(folder / "messages.parquet").to_pylist()
        table[1]["type"] = "service"
        pq.write_table(pa.Table.from_pylist(table, MESSAGES), folder / "messages.parquet")
        store(database_url, folder)
    assert visible(database_url) == {"user5~1": [1, 2], "user5~2": [1, 2]}


def any_export(rng: random.Random, source: int) -> Export:
    """One of nine chats that all might be one another, with messages that often agree."""
    names = {"html-0001~a": "Anna", "html-0001~b": "Anna", "html-0001~c": "Anna", "html-0002~a": "Bob"}
    key = rng.choice([*names, "user5~a", "user5~b", "user5@user8", "user5@user9", "channel7"])
    name = names.get(key) or rng.choice(["Anna", "Anna", "Bob", None])
    odd = rng.random() < 0.4
    messages = [
        (n, n + (10 if odd and rng.random() < 0.3 else 0), rng.choice(["hello", "hello", "there"]))
        for n in sorted(rng.sample(range(1, 9), rng.randint(0, 5)))
    ]
    return Export(source, key, name, messages, utc=rng.random() < 0.8)


def any_range(rng: random.Random, source: int) -> Export:
    """Some days of one of three people's chats: of one name, with one peer, and of the same message ids."""
    person = rng.randint(1, 3)
    first = rng.randint(1, 20)
    days = range(first, first + rng.randint(2, 6))
    form = rng.choice(["html-0001", "html-0001", "html-0001", "user5"])
    key = "user5@user9" if rng.random() < 0.05 and person == 1 else f"{form}~{person}{first:02d}"
    return Export(source, key, "Anna", [(n, 3 * n + person, "hello") for n in days])


def own_rows(exports: Sequence[Export]) -> dict[tuple[str, int], Any]:
    """What each chat's own exports say of a message at last: when it was sent."""
    last: dict[tuple[str, int], dict[str, Any]] = {}
    for row in itertools.chain.from_iterable(map(rows, exports)):
        before = last.setdefault((row["chat_key"], row["message_id"]), row)
        last[row["chat_key"], row["message_id"]] = max(before, row, key=lambda row: str(row["revision"]))
    return {message: row["sent_local"] for message, row in last.items()}


def assert_nothing_lost(url: str, exports: Sequence[Export]) -> None:
    """Every message of every export is to be found in its chat, or in what that turned out to be."""
    with psycopg.connect(url) as connection:
        best: dict[str, str] = dict(connection.execute("SELECT alias, chat_key FROM chat_aliases").fetchall())
        found = connection.execute("SELECT chat_key, message_id, sent_local FROM messages").fetchall()
    stored = {(key, number): sent for key, number, sent in found}
    for (key, number), sent in own_rows(exports).items():
        assert stored[best.get(key, key), number] == sent


def assert_ends_alike(url: str, folder: Path, rng: random.Random, worlds: Any) -> list[Export]:
    """Store eight batches of any exports in several orders, then all at once; return the exports."""
    batches, exports = list[Path](), list[Export]()
    for n in range(8):
        some = [worlds(rng, len(exports) + m + 1) for m in range(rng.randint(1, 3))]
        batches.append(write(folder / str(n), *some))
        exports += some
    for batch in batches:
        store(url, batch)
    expected = state(url)
    for _ in range(2):
        clear(url)
        rng.shuffle(batches)
        for batch in [*batches, *rng.sample(batches, 3)]:
            store(url, batch)
        assert state(url) == expected
    clear(url)
    with ThreadPoolExecutor(5) as pool:
        grown = sum(pool.map(lambda batch: store(url, batch), batches * 2))
    assert state(url) == expected
    assert grown == len(expected["messages"])
    return exports


SEEDS = range(int(os.environ.get("STORE_SEEDS", "4")))


@pytest.mark.parametrize("seed", SEEDS)
def test_any_order_and_any_concurrency_end_alike(database_url: str, tmp_path: Path, seed: int) -> None:
    exports = assert_ends_alike(database_url, tmp_path, random.Random(seed), any_export)
    assert_nothing_lost(database_url, exports)


@pytest.mark.parametrize("seed", SEEDS)
def test_ranges_of_namesakes_chats_become_the_chats_they_are_of(
    database_url: str, tmp_path: Path, seed: int
) -> None:
    exports = assert_ends_alike(database_url, tmp_path, random.Random(seed), any_range)
    assert_nothing_lost(database_url, exports)
    spans: list[set[tuple[int, int, str]]] = []
    for export in exports:
        span = set(export.messages).union(*(other for other in spans if other & set(export.messages)))
        spans = [other for other in spans if not other & span] + [span]
    assert sorted(visible(database_url).values()) == sorted(sorted(n for n, *_ in span) for span in spans)


def test_chats_are_compared_pair_by_pair(database_url: str, tmp_path: Path) -> None:
    """Not every chat with every other, nor every message with every other, whatever the planner knows."""
    ids = range(1, 201)
    chats = [Export(n, f"channel{n}", "Anna", [(i, i + 1000 * n, "") for i in ids]) for n in range(1, 51)]
    store(database_url, write(tmp_path / "in", *chats, Export(51, "html-1~a", "Bob", chats[0].messages)))
    compare = "EXPLAIN (ANALYZE, FORMAT JSON) " + joining.sql.compare.sql
    pair = {"ones": ["channel1"], "others": ["html-1~a"], "most": None}
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(compare, pair)
        ((((plan,),),),) = [cursor.fetchall()]
    nodes = [plan["Plan"]]
    for node in nodes:
        nodes += node.get("Plans", [])
    read = [
        node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
        for node in nodes
        if node.get("Relation Name") in ("messages", "joined_messages")
    ]
    assert len(ids) * 2 <= sum(read) <= len(ids) * 5, plan
