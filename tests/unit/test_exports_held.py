"""What an export holds of a chat: its ids and times, and whether anything may have been filtered."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from html_pages import message as html_message
from html_pages import page, text
from json_chats import chat, message

from flows.exports.held import Held, chunks_of, note, unpacked
from flows.stages.convert.stage import convert
from flows.stages.runner.contract import FileOutcome, Result, write_result

ANNA = {"from": "Anna", "from_id": "user1"}
BOB = {"from": "Bob", "from_id": "user2"}
TWO = [message(id=1, **ANNA), message(id=2, **BOB)]
TOPICS = [message(id=n, type="service", action="topic_created", title="A") for n in (3, 4)]


def held(folder: Path, exports: dict[str, Any], extracted: str = "ok") -> list[dict[str, Any]]:
    """Convert files of one source file; return the rows of its chats."""
    for name, content in exports.items():
        path = folder / "in" / "000001-a.zip" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    write_result(folder / "in", Result("extract", [FileOutcome("000001-a.zip", extracted)]))
    convert(folder / "in", folder / "out")
    return pq.read_table(folder / "out" / "chats.parquet").to_pylist()


@pytest.mark.parametrize(
    ("messages", "kind", "of_account", "whole"),
    [
        (TWO, "private_supergroup", False, True),
        (TWO, "private_group", True, True),
        ([message(id=1, **ANNA)], "private_group", False, False),
        ([message(id=1, **ANNA), message(id=2, type="service", **BOB)], "public_supergroup", True, False),
        ([message(id=1, **ANNA)], "personal_chat", True, True),
        ([message(id=1, **ANNA)], "saved_messages", True, True),
        ([message(id=1, **ANNA)], "public_channel", False, True),
        ([message(id=1, **ANNA)], "public_channel", True, False),
        ([{**one, "reply_to_message_id": 9} for one in TWO], "private_supergroup", False, False),
        (TWO, "replies", False, False),
        (TWO, None, False, False),
    ],
)
def test_chats_that_may_be_filtered_are_not_whole(
    tmp_path: Path, messages: list[Any], kind: str, of_account: bool, whole: bool
) -> None:
    one = chat(*messages, kind=kind)
    (found,) = held(tmp_path, {"result.json": {"chats": {"list": [one]}} if of_account else one})
    assert found["whole"] is whole


def test_what_is_held(tmp_path: Path) -> None:
    times = [{"date": f"2023-01-0{n}T03:04:05", "date_unixtime": f"{1672628645 + n}"} for n in range(1, 6)]
    messages = [
        message(id=-999_999_990, **times[0], **ANNA),
        message(id=5, **times[1], **ANNA),
        message(id=9, **times[2], edited_unixtime="1700000000", **BOB),
        message(id=7, **times[3], **BOB),
        {"id": 12, "type": "unsupported"},
    ]
    (found,) = held(tmp_path, {"result.json": chat(*messages, *TOPICS)})
    assert unpacked(chunks_of(found["ids"])).to_pylist() == [-999_999_990, 3, 4, 5, 7, 9, 12]
    assert (found["latest"], found["topics"], found["first_at"]) == (1_700_000_000, 2, None)
    assert (found["first_local"], found["last_local"]) == (
        datetime.fromisoformat("2023-01-02T03:04:05"),
        datetime.fromisoformat("2023-01-04T03:04:05"),
    )
    (found,) = held(tmp_path / "certain", {"result.json": chat(*messages)})
    assert (found["first_at"], found["last_at"]) == tuple(
        datetime.fromtimestamp(1672628645 + n, UTC) for n in (2, 4)
    )


@pytest.mark.parametrize(
    ("exports", "extracted"),
    [
        ({"result.json": json.dumps(chat(*TWO), indent=1)[:-4]}, "ok"),
        ({"result.json": chat(*TWO, {"type": "message", "text": "without an id"})}, "ok"),
        ({"result.json": chat(*TWO), "other/result.json": "{"}, "ok"),
        ({"result.json": chat(*TWO)}, "partial"),
    ],
    ids=["cut off", "lost", "another member", "extract"],
)
def test_nothing_is_whole_in_a_damaged_source_file(
    tmp_path: Path, exports: dict[str, Any], extracted: str
) -> None:
    (found,) = held(tmp_path, exports, extracted)
    assert (found["whole"], unpacked(chunks_of(found["ids"])).to_pylist()) == (False, [1, 2])


def test_html_is_whole_with_all_parts_and_two_senders(tmp_path: Path) -> None:
    lines = [html_message(n, text(f"{n}"), sender=name) for n, name in enumerate(["Anna", "Bob", "Bob"], 1)]
    (found,) = held(tmp_path / "1", {"messages.html": page(*lines)})
    assert (found["whole"], unpacked(chunks_of(found["ids"])).to_pylist()) == (True, [1, 2, 3])
    for name, pages in (
        ("part", {"messages.html": page(*lines, following="messages2.html")}),
        ("one", {"messages.html": page(*lines[1:])}),
    ):
        assert [found["whole"] for found in held(tmp_path / name, pages)] == [False]
    json_beside = chat(*(message(id=n, text=f"{n}", date="2025-07-28T20:49:27") for n in (1, 2)))
    both = held(tmp_path / "both", {"result.json": json_beside, "messages.html": page(*lines)})
    assert [(found["form"], found["whole"]) for found in both] == [("json", False), ("html", False)]


@pytest.mark.parametrize("count", [30, 20_000])
def test_all_ids_come_back_in_order(count: int) -> None:
    numbers = [2**63 - 1, -(2**63), *random.Random(1).sample(range(-5_000, 300_000), count)]
    found = Held()
    for start in range(0, len(numbers), 3_000):
        part = numbers[start : start + 3_000]
        rows = {name: [None] * len(part) for name in ("sent_at", "sent_local", "action", "sender_id")}
        columns = {
            **{
                name: pa.array(values, pa.timestamp("us") if "sent" in name else pa.string())
                for name, values in rows.items()
            },
            "message_id": pa.array(part, pa.int64()),
            "type": pa.array(["unsupported"] * len(part)),
            "sender_name": pa.array([None] * len(part), pa.string()),
            "reply_to_message_id": pa.array([None] * len(part), pa.int64()),
            "revision": pa.array(["000000000001.2.0000000001"] * len(part)),
        }
        note(pa.record_batch(columns), [(found, len(part))])
    assert unpacked(chunks_of(found.columns()["ids"])).to_pylist() == sorted(numbers)
