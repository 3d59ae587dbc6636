"""`tdp chat` shows a chat, the exports that contain it, and its edits, in any order of loading."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import psycopg
import pytest
from chat_tables import clear
from chat_tables import run_tdp as run
from converted import Export, store, write

from flows.errors import ChatUnknown, QueryTimedOut

#: Three exports of one chat, one a month: message 1 was edited twice, message 2 is missing from the second
#: on.
ANN = ("user1", "Ann")
EXPORTS = [
    Export(1, "channel1", "News", [(1, 1, "draft"), (2, 5, "gone"), (3, 3, "same")], sender=ANN, whole=True),
    Export(2, "channel1", "News", [(1, 2, "better"), (3, 3, "same"), (4, 11, "new")], sender=ANN, whole=True),
    Export(3, "channel1", "News", [(1, 4, "final"), (3, 3, "same"), (4, 20, "new")], sender=ANN, whole=True),
]


def shown(url: str, *arguments: object) -> dict[str, Any]:
    done = run(url, "chat", "--json", *arguments)
    assert done.exit_code == 0, done.output or done.exception
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_edits_are_seen_in_any_order_of_loading(database_url: str, tmp_path: Path) -> None:
    folders = [write(tmp_path / str(export.source), export) for export in EXPORTS]
    pages = set()
    for order in itertools.permutations(folders):
        clear(database_url)
        for folder in order:
            store(database_url, folder)
        found = shown(database_url, "News")
        assert [(edit["message_id"], edit["earlier"], edit["text"]) for edit in found["edits"]] == [
            (1, ["draft", "better"], "final")
        ]
        pages.add(json.dumps(found))
    assert len(pages) == 1
    exports = [(each["source_id"], each["messages"], each["versions"]) for each in found["exports"]]
    assert exports == [(1, 2, 1), (2, 0, 1), (3, 2, 0)]
    assert (found["statistics"]["messages"], found["edited"]) == (4, 1)
    assert [(each["held"], each["whole"], each["missing"]) for each in found["exports"]] == [
        (3, True, 0),
        (3, True, 1),
        (3, True, 0),
    ]
    (missing,) = found["latest_missing"]
    assert (found["missing"], missing["message_id"], missing["missing_since"]) == (1, 2, 2)


def test_a_message_that_a_later_export_has_again_is_not_missing(database_url: str, tmp_path: Path) -> None:
    again = Export(4, "channel1", "News", [(2, 5, "gone"), (4, 30, "new")])
    gone = Export(5, "channel1", "News", [(1, 1, "draft"), (5, 40, "newer")], whole=True)
    folders = {one.source: write(tmp_path / str(one.source), one) for one in (*EXPORTS, again, gone)}
    partial = write(tmp_path / "4 in part", again._replace(whole=False))
    for order, marks in (
        ([1, 2, 3], [(2, 2)]),
        ([3, 1], [(2, 3)]),
        ([1, 4, 3], []),
        ([3, 2, 4, 1], []),
        ([5, 4, 1, 2], [(2, 5), (3, 5), (4, 5)]),
        ([2, 1, 4, 5], [(2, 5), (3, 5), (4, 5)]),
    ):
        clear(database_url)
        for number in order:
            store(database_url, partial if number == 4 else folders[number])
        found = shown(database_url, "News")["latest_missing"]
        assert sorted((one["message_id"], one["missing_since"]) for one in found) == marks
    store(database_url, folders[4])
    assert shown(database_url, "News")["missing"] == 0, "it is not known what one of the exports holds"


def test_what_only_looks_missing_is_not_marked(database_url: str, tmp_path: Path) -> None:
    def marked(*exports: Export) -> list[int]:
        clear(database_url)
        for n, export in enumerate(exports):
            store(database_url, write(tmp_path / os.urandom(4).hex(), export._replace(source=n + 1)))
        return [one["message_id"] for one in shown(database_url, "News")["latest_missing"]]

    days = [(n, 1440 * n, f"day {n}") for n in range(1, 9)]
    first = Export(1, "channel1", "News", days, whole=True)
    lacking = [day for day in days if day[0] != 4]
    assert marked(first, first._replace(messages=lacking)) == [4]
    assert marked(first, first._replace(messages=lacking, whole=False)) == []
    assert marked(first, first._replace(messages=lacking[3:])) == [], "before its first message"
    assert marked(first, first._replace(messages=lacking[:3])) == [], "behind its last message"
    imported = [*days[:3], (4, 1, "imported"), *days[4:]]
    assert marked(first._replace(messages=imported), first._replace(messages=lacking[1:])) == []
    assert marked(first, first._replace(messages=[days[0], days[3], days[7]])) == [], "filtered somehow"
    clocks = first._replace(messages=lacking, utc=False)
    assert marked(first, clocks) == [4], "by the wall clock, far enough inside"
    assert marked(first, clocks._replace(messages=[days[2], *days[4:]])) == [], "zones may differ"


def test_an_edit_that_was_undone_is_not_an_earlier_text(database_url: str, tmp_path: Path) -> None:
    texts = ["one", "two", "one"]
    folders = [
        write(tmp_path / str(n), Export(n + 1, "channel1", "News", [(1, n, text)]))
        for n, text in enumerate(texts)
    ]
    for order in itertools.permutations(folders):
        clear(database_url)
        for folder in order:
            store(database_url, folder)
        assert shown(database_url, "News")["edits"][0]["earlier"] == ["two"]


def test_two_exports_in_one_batch_show_an_edit(database_url: str, tmp_path: Path) -> None:
    store(database_url, write(tmp_path / "all", *EXPORTS))
    assert shown(database_url, "News")["edits"][0]["earlier"] == ["draft", "better"]


def test_edits_of_a_chat_that_was_joined_are_those_of_both(database_url: str, tmp_path: Path) -> None:
    known = Export(1, "user5@user9", "Anna", [(1, 1, "hello"), (2, 2, "there")])
    floating = Export(2, "user5~a", "Anna", [(1, 1, "hello"), (2, 2, "there")])
    earlier = Export(3, "user5@user9", "Anna", [(4, 4, "x")])
    later = Export(4, "user5@user9", "Anna", [(4, 5, "y")])
    for export in (known, earlier, later):
        store(database_url, write(tmp_path / str(export.source), export))
    store(database_url, write(tmp_path / "2", floating))
    found = shown(database_url, "Anna")
    assert {edit["message_id"]: edit["earlier"] for edit in found["edits"]}[4] == ["x"]


def test_other_texts_of_service_messages_are_not_edits(database_url: str, tmp_path: Path) -> None:
    """HTML, which knows no ids of chats, has a text for service messages."""
    same = [(1, 1, "hello"), (2, 2, "there")]
    html = Export(2, "user5~a", "Anna", [*same, (5, 5, "Anna pinned this message")])
    for export in (
        Export(1, "user5@user9", "Anna", [*same, (4, 3, "x"), (5, 5, "")]),
        Export(3, "user5@user9", "Anna", [(4, 4, "y")]),
        html,
    ):
        store(database_url, write(tmp_path / str(export.source), export))
    with psycopg.connect(database_url) as opened:
        opened.execute("UPDATE messages SET type = 'service', text = '', revision = 'z' WHERE message_id = 5")
    found = shown(database_url, "Anna")
    assert [(edit["message_id"], edit["earlier"]) for edit in found["edits"]] == [(4, ["x"])]


def test_the_page(database_url: str, tmp_path: Path) -> None:
    for export in EXPORTS:
        store(database_url, write(tmp_path / str(export.source), export))
    page = run(database_url, "chat", "News").stdout
    for part in (
        "News  channel1",
        "4 messages in 1 chat",
        "3 exports with messages of this chat:",
        "source 1",
        "Current: messages that are stored as this export has them.",
        "1 message with an earlier text:",
        "  + final",
        "1 message missing in a later export:",
        "since source 2: gone",
    ):
        assert part in page
    assert page.index("- draft") < page.index("- better")
    assert isinstance(run(database_url, "chat", "none").exception, ChatUnknown)


def test_the_page_fits_into_80_columns_and_says_how_many_senders_it_leaves_out(
    database_url: str, tmp_path: Path
) -> None:
    for n in range(1, 13):
        one = Export(n, "channel1", "News", [(n, n, "text")], sender=(f"user{n}", f"Ann {n}"), whole=True)
        store(database_url, write(tmp_path / str(n), one))
    page = run(database_url, "chat", "News", columns=80).stdout
    assert max(map(len, page.splitlines())) <= 80
    assert "Export Batch Received Holds Whole Current Earlier Missing" in " ".join(page.split())
    assert "and 2 more: --senders 12" in page
    page = run(database_url, "chat", "News", "--senders", "12").stdout
    assert page.count("Ann ") == 12
    assert " more:" not in page


def test_a_question_that_takes_too_long_is_ended(database_url: str, tmp_path: Path) -> None:
    store(database_url, write(tmp_path / "1", EXPORTS[0]))
    with psycopg.connect(database_url) as opened:
        opened.execute("ALTER TABLE messages RENAME TO kept")
        opened.execute("CREATE VIEW messages AS SELECT kept.* FROM kept, pg_sleep(30)")
    with pytest.raises(QueryTimedOut):
        raise run(database_url, "chat", "N", "--timeout", "0.2").exception or AssertionError
