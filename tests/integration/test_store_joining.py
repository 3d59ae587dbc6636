"""Joining of floating chats: the tables depend only on the loaded rows, never on the order of loading."""

from __future__ import annotations

import itertools
import random
from contextlib import closing
from pathlib import Path

import psycopg
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_tables import clear, tables
from converted import Export, store, stored, visible, write

from flows.exports.columns import MESSAGES
from flows.stages.store import joining


def in_all_orders(url: str, folder: Path, *exports: Export) -> dict[str, list[int]]:
    """Store the exports as separate batches in many orders, then as one batch; the tables must be equal."""
    batches = [write(folder / str(n), export) for n, export in enumerate(exports)]
    orders = list(itertools.permutations(batches))
    ends = []
    for order in random.Random(1).sample(orders, min(12, len(orders))):
        clear(url)
        for batch in order:
            store(url, batch)
        ends.append(tables(url))
    clear(url)
    store(url, write(folder / "all", *exports))
    ends.append(tables(url))
    assert all(end == ends[0] for end in ends)
    return visible(url)


HELLO = [(1, 1, "hello"), (2, 2, "there"), (3, 3, "")]


def test_html_joins_the_json_chat_of_the_same_name(database_url: str, tmp_path: Path) -> None:
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


def test_messages_of_joined_chats_are_counted_per_file(database_url: str, tmp_path: Path) -> None:
    store(database_url, write(tmp_path / "1", Export(1, "html-0123", "Anna", HELLO[:2])))
    both = [
        Export(2, "channel7", "Anna", HELLO),
        Export(3, "html-0123", "Anna", [HELLO[1], (4, 4, "only in html")]),
    ]
    result = stored(database_url, write(tmp_path / "2", *both))
    counts = [(file.counts["rows_new"], file.counts["rows_same"]) for file in result.files]
    assert (counts, result.counts["rows_new"]) == ([(1, 2), (1, 1)], 2)


@pytest.mark.parametrize("old", ["json", "html"])
def test_local_times_are_compared_if_one_side_has_no_offset(
    database_url: str, tmp_path: Path, old: str
) -> None:
    html = Export(1, "html-0123", "Anna", HELLO, utc=old == "json")
    assert in_all_orders(
        database_url, tmp_path, html, Export(2, "channel7", "Anna", HELLO, utc=old == "html")
    ) == {"channel7": [1, 2, 3]}


@pytest.mark.parametrize("ahead", [60, 120, -570])
def test_wall_clocks_of_two_zones_do_not_prove_that_chats_differ(
    database_url: str, tmp_path: Path, ahead: int
) -> None:
    html = Export(1, "html-0123", "Anna", [*HELLO, (4, 4, "more")], utc=False, ahead=ahead)
    found = in_all_orders(database_url, tmp_path, html, Export(2, "channel7", "Anna", HELLO, ahead=120))
    assert found == {"channel7": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("ahead", "messages"),
    [
        (67, HELLO),
        (27 * 60, HELLO),
        (60, [(1, 1, ""), (2, 2, "")]),
        (60, [(1, 1, "hello"), (2, 12, "there")]),
    ],
    ids=["no zone", "too far", "no text", "another time"],
)
def test_wall_clocks_that_no_zone_explains_keep_chats_apart(
    database_url: str, tmp_path: Path, ahead: int, messages: list[tuple[int, int, str]]
) -> None:
    html = Export(1, "html-0123", "Anna", messages, utc=False, ahead=ahead)
    json = Export(2, "channel7", "Anna", [(n, n, text) for n, _, text in messages])
    assert set(in_all_orders(database_url, tmp_path, html, json)) == {"html-0123", "channel7"}


def test_html_of_saved_messages_has_the_owners_name(database_url: str, tmp_path: Path) -> None:
    owner, other = ("user9", "Nora Field"), ("user8", "Nora Field")
    exports = [
        Export(1, "html-0123~ab", "Nora Field", [*HELLO, (4, 4, "more")], utc=False),
        Export(2, "user9@user9", None, HELLO, type="saved_messages", sender=owner),
        Export(3, "user8@user8", None, [(1, 5, "not mine")], type="saved_messages", sender=other),
        Export(4, "html-0123~cd", "Nora Field", [(7, 7, "a talk with her")], utc=False),
    ]
    assert in_all_orders(database_url, tmp_path, *exports) == {
        "user9@user9": [1, 2, 3, 4],
        "user8@user8": [1],
        "html-0123~cd": [7],
    }


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
def test_chats_without_a_shared_message_stay_apart(
    database_url: str, tmp_path: Path, name: str, messages: list[tuple[int, int, str]]
) -> None:
    exports = [Export(1, "html-0123", "Anna", HELLO), Export(2, "channel7", name, messages)]
    assert set(in_all_orders(database_url, tmp_path, *exports)) == {"html-0123", "channel7"}


def test_html_joins_a_renamed_chat(database_url: str, tmp_path: Path) -> None:
    exports = [
        Export(1, "html-0123", "Anna", HELLO),
        Export(2, "channel7", "Anna", []),
        Export(3, "channel7", "Anna  Maria", HELLO),
    ]
    assert in_all_orders(database_url, tmp_path, *exports) == {"channel7": [1, 2, 3]}


def test_html_joins_saved_messages(database_url: str, tmp_path: Path) -> None:
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


def test_a_later_contradiction_separates_joined_chats(database_url: str, tmp_path: Path) -> None:
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


def test_a_chain_joins_the_best_identified_chat(database_url: str, tmp_path: Path) -> None:
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


def test_chats_of_one_name_with_the_same_ids_stay_apart(database_url: str, tmp_path: Path) -> None:
    exports = [
        Export(1, "html-0123~a", "Saved Messages", HELLO),
        Export(2, "html-0123~b", "Saved Messages", [(n, minute + 60, text) for n, minute, text in HELLO]),
        Export(3, "user5~c", "Anna", [(n, minute + 120, text) for n, minute, text in HELLO]),
        Export(4, "user5~d", "Anna", [(n, minute + 180, text) for n, minute, text in HELLO]),
    ]
    assert in_all_orders(database_url, tmp_path, *exports) == {export.key: [1, 2, 3] for export in exports}


def test_html_joins_a_renamed_floating_chat_with_the_same_first_message(
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


def test_no_chain_joins_chats_that_contradict_each_other(database_url: str, tmp_path: Path) -> None:
    """A chat that could join either of two joins the better identified one; no message is overwritten."""
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


def test_service_messages_can_contradict(database_url: str, tmp_path: Path) -> None:
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


def test_chats_are_compared_pair_by_pair(database_url: str, tmp_path: Path) -> None:
    """Without statistics, the query does not compare every chat or message with every other."""
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
