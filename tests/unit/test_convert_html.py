"""HTML in the convert stage: beside JSON of the same source file, and in parts in several source files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest
from converted import store, visible
from html_pages import message, page, service, text
from pydantic import ValidationError

from blocks import PipelineConfig
from flows.exports.html_export import _TOGETHER
from flows.stages.convert.stage import convert, main

START = datetime(2024, 5, 1, 12, 0, 7)  # noqa: DTZ001 - wall clock


def when(number: int, hours: int = 0) -> str:
    return f"{START + timedelta(minutes=number, hours=hours):%d.%m.%Y %H:%M:%S}"


def html(numbers: Iterable[int], hours: int = 0, **options: str) -> str:
    """Return a page; its clock is ``hours`` ahead of the JSON's."""
    first, *others = [
        message(number, text(f"text {number}"), when=when(number, hours), sender="Anna" if at == 0 else None)
        for at, number in enumerate(numbers)
    ]
    return page(first, *others, **options)


def as_json(numbers: Iterable[int], name: str = "Chat", **changes: Any) -> str:
    messages = [
        {
            "id": number,
            "type": "message",
            "date": (START + timedelta(minutes=number)).isoformat(),
            "date_unixtime": str(1_714_557_607 + 60 * number),
            "from": "Anna",
            "from_id": "user5",
            "text": f"text {number}",
            **changes,
        }
        for number in numbers
    ]
    return json.dumps({"name": name, "type": "public_channel", "id": 7, "messages": messages}, indent=1)


class Converted:
    """The outcome of a batch: reasons by source file, messages as (chat, id, text), names of the chats."""

    def __init__(self, folder: Path, files: dict[str, str], zone: str | None = None) -> None:
        for name, content in files.items():
            path = folder / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        result = convert(folder / "in", folder / "out", zone)
        self.reasons = {file.name: file.reason for file in result.files}
        self.counts = {file.name: file.counts["messages"] for file in result.files}
        self.rows = pq.read_table(folder / "out" / "messages.parquet").to_pylist()
        self.chats = pq.read_table(folder / "out" / "chats.parquet").to_pylist()

    def ids(self, key: str = "") -> list[int]:
        return sorted(row["message_id"] for row in self.rows if row["chat_key"].startswith(key))


@pytest.mark.parametrize("hours", [0, 3, -9])
@pytest.mark.parametrize("recent", [range(1, 4), range(5000, 6001), range(9000, 9002)])
def test_html_has_what_a_short_json_lacks(tmp_path: Path, hours: int, recent: range) -> None:
    """Exported at different times, perhaps in different time zones; JSON has the instants."""
    files = {"1-a.zip/result.json": as_json(recent), "1-a.zip/messages.html": html(range(1, 9001), hours)}
    found = Converted(tmp_path, files)
    assert found.ids("channel7") == found.ids() == sorted({*range(1, 9001), *recent})
    assert sum(row["sent_at"] is not None for row in found.rows) == len(recent)
    assert found.counts == {"1-a.zip": len(found.rows)}
    assert [(chat["chat_key"], chat["form"], chat["messages"]) for chat in found.chats] == [
        ("channel7", "json", len(recent)),
        ("channel7", "html", len(found.rows) - len(recent)),
    ]
    assert found.reasons == {"1-a.zip": None}


def test_html_that_repeats_the_json_adds_no_messages(tmp_path: Path) -> None:
    pages = {"1-a.zip/messages.html": html(range(1, 5), following="messages2.html")}
    pages["1-a.zip/messages2.html"] = html(range(5, 9), back="messages.html")
    found = Converted(tmp_path, {"1-a.zip/result.json": as_json(range(1, 9)), **pages})
    assert (found.ids(), found.counts, len(found.chats)) == (list(range(1, 9)), {"1-a.zip": 8}, 1)
    assert found.reasons == {"1-a.zip": None}


def test_both_texts_of_a_message_that_was_edited_between_the_exports_are_kept(
    tmp_path: Path, database_url: str
) -> None:
    """Store keeps one of them as another version."""
    edited = html(range(1, 5)).replace("text 3", "text 3, after all").replace("text 2\n", "text  2<br>\n")
    files = {"000001-a.zip/result.json": as_json([1, 2, 3]), "000001-a.zip/messages.html": edited}
    found = Converted(tmp_path, files)
    texts = [(row["message_id"], row["text"]) for row in found.rows if row["message_id"] >= 3]
    assert texts == [(3, "text 3"), (3, "text 3, after all"), (4, "text 4")]
    assert {row["chat_key"] for row in found.rows} == {"channel7"}
    assert (len(found.rows), found.reasons) == (5, {"000001-a.zip": None})
    store(database_url, tmp_path / "out")
    assert visible(database_url) == {"channel7": [1, 2, 3, 4]}
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT message_id, text FROM edits").fetchall() == [
            (3, "text 3, after all")
        ]


@pytest.mark.parametrize(
    "page_of_another",
    [
        html([1, 2, 3], name="Other").replace(">\ntext", ">\nother text"),
        html([1, 2, 3]).replace("12:0", "12:1"),
        html([7, 8, 9]),
    ],
    ids=["texts", "times", "ids"],
)
def test_html_of_another_chat_is_read_whole(tmp_path: Path, page_of_another: str) -> None:
    files = {"1-a.zip/result.json": as_json([1, 2]), "1-a.zip/messages.html": page_of_another}
    found = Converted(tmp_path, files)
    assert (found.ids("channel7"), len(found.ids("html-")), len(found.chats)) == ([1, 2], 3, 2)
    assert found.reasons == {"1-a.zip": None}


def test_a_contradiction_between_the_forms_is_named(tmp_path: Path) -> None:
    """The rows of JSON are kept; the first block of messages has proved that it is the same chat."""
    pages = html(range(1, 9001)).replace(when(9000), when(9000).replace(":07", ":09"))
    files = {"1-a.zip/result.json": as_json(range(1, 9001)), "1-a.zip/messages.html": pages}
    found = Converted(tmp_path, files)
    assert found.ids("channel7") == list(range(1, 9001))
    assert "differs from that of the JSON's message with this id: 1;" in (found.reasons["1-a.zip"] or "")


def test_each_html_chat_of_an_account_is_compared(tmp_path: Path) -> None:
    account = {
        "chats": {"list": [json.loads(as_json([1, 2, 3])), json.loads(as_json([1, 2], "B", text="b"))]}
    }
    account["chats"]["list"][1]["id"] = 8
    files = {
        "1-a.zip/result.json": json.dumps(account),
        "1-a.zip/chats/chat_001/messages.html": html(range(1, 6)),
        "1-a.zip/chats/chat_002/messages.html": html([1, 2, 3], name="C").replace("text", "c"),
    }
    found = Converted(tmp_path, files)
    assert found.ids("channel7") == [1, 2, 3, 4, 5]
    assert found.ids("channel8") == [1, 2]
    assert found.ids("html-") == [1, 2, 3]


PARTS = {
    "000003-messages.html/messages.html": html([1, 2], following="messages2.html"),
    "000001-messages2.html/messages.html": html([3, 4], back="messages.html", following="messages3.html"),
    "000002-rest.zip/Chat/messages3.html": html([5], back="messages2.html"),
}


def joined(content: str) -> str:
    """Return a page whose first message is joined to the last one of the part before."""
    return content.replace('<div class="from_name">\nAnna \n       </div>', "")


def test_parts_in_several_source_files_are_one_chat(tmp_path: Path) -> None:
    parts = {name: content if "3-" in name[:7] else joined(content) for name, content in PARTS.items()}
    found = Converted(tmp_path, parts)
    assert found.ids() == [1, 2, 3, 4, 5]
    assert {row["sender_name"] for row in found.rows} == {"Anna"}
    assert len({row["chat_key"] for row in found.rows} | {chat["chat_key"] for chat in found.chats}) == 1
    assert found.reasons == dict.fromkeys(name.partition("/")[0] for name in PARTS)
    assert found.counts == {"000003-messages.html": 2, "000001-messages2.html": 2, "000002-rest.zip": 1}


def test_only_parts_that_no_source_file_has_are_missing(tmp_path: Path) -> None:
    names = list(PARTS)
    found = Converted(tmp_path, {name: PARTS[name] for name in (names[0], names[2])})
    assert found.reasons == {
        "000003-messages.html": None,
        "000002-rest.zip": f"parts missing: messages2.html; {_TOGETHER}",
    }
    alone = Converted(tmp_path / "alone", {names[1]: PARTS[names[1]]})
    assert alone.reasons == {
        "000001-messages2.html": f"parts missing: messages.html, messages3.html; {_TOGETHER}"
    }


def test_parts_that_come_one_by_one_are_one_chat_once_they_come_together(
    tmp_path: Path, database_url: str
) -> None:
    parts = {name: content if "3-" in name[:7] else joined(content) for name, content in PARTS.items()}

    def store_batch(name: str, files: dict[str, str]) -> dict[str, list[int]]:
        Converted(tmp_path / name, files)
        store(database_url, tmp_path / name / "out")
        return visible(database_url)

    for number, part in enumerate(parts):
        one_by_one = store_batch(str(number), {part: parts[part]})
    assert sorted(one_by_one.values()) == [[1, 2], [3, 4], [5]]
    assert list(store_batch("all", parts).values()) == [[1, 2, 3, 4, 5]]
    with psycopg.connect(database_url) as connection:
        senders = connection.execute("SELECT DISTINCT sender_name FROM messages").fetchall()
    assert senders == [("Anna",)], "joined messages have the sender of the part before"


@pytest.mark.parametrize(
    "other",
    [
        html([3, 4], back="messages.html", name="Other"),
        html([1, 2], back="messages.html"),
        html([3, 4], back="messages.html").replace(
            '<div class="history">', f'<div class="history">{service(-40, "2 May 2024")}'
        ),
    ],
    ids=["title", "ids", "day bars"],
)
def test_parts_of_other_chats_are_not_continued(tmp_path: Path, other: str) -> None:
    first = html([1, 2], following="messages2.html").replace(
        '<div class="history">', f'<div class="history">{service(-1, "1 May 2024")}'
    )
    files = {"1-messages.html/messages.html": first, "2-messages2.html/messages.html": other}
    found = Converted(tmp_path, files)
    assert "messages2.html" in (found.reasons["1-messages.html"] or "")


def test_chats_that_only_a_list_of_chats_names_are_missing(tmp_path: Path) -> None:
    links = "".join(f'<a href="../chats/chat_{n}/messages.html#allow_back">Chat {n}</a>' for n in "123")
    files = {f"1-a.zip/D/chats/chat_{n}/messages.html": html([1, 2], name=f"Chat {n}") for n in "13"}
    found = Converted(tmp_path, {**files, "1-a.zip/D/lists/chats.html": f"<html>{links}</html>"})
    missing = "'chats/chat_2/messages.html'"
    assert found.reasons == {"1-a.zip": f"missing, although a list of chats names them: {missing}"}
    assert found.counts == {"1-a.zip": 4}


def test_the_zone_of_the_exports_is_an_option(tmp_path: Path) -> None:
    found = Converted(tmp_path, {"1-a.zip/messages.html": html([1])}, "Europe/Berlin")
    assert [f"{row['sent_at']:%H:%M:%S}" for row in found.rows] == ["10:01:07"]
    with pytest.raises(ValueError, match="no time zone"):
        convert(tmp_path / "in", tmp_path / "none", "Mars/Base")


def test_the_block_passes_its_options_to_convert(tmp_path: Path) -> None:
    assert PipelineConfig().options("convert") == []
    options = PipelineConfig(html_zone=" Europe/Berlin ", convert_readers=1).options("convert")
    assert options == ["--html-zone=Europe/Berlin", "--readers=1"]
    (tmp_path / "in").mkdir()
    assert main([str(tmp_path / "in"), str(tmp_path / "out"), *options]) == 0
    assert main([str(tmp_path / "in"), str(tmp_path / "none"), "--html-zone=Mars/Base"]) == 64
    assert main([str(tmp_path / "in"), str(tmp_path / "none"), "--zone=Europe/Berlin"]) == 64
    with pytest.raises(ValidationError, match="IANA name such as Europe/Berlin"):
        PipelineConfig(html_zone="Mars/Base")
