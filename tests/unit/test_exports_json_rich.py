"""Rich messages in Telegram Desktop's JSON: their text, read by lines."""

import json
from pathlib import Path
from typing import Any

import pytest
from json_chats import Json, Read, chat, document, message, reader


@pytest.fixture
def read(tmp_path: Path) -> Read:
    return reader(tmp_path)


RICH = {
    "blocks": [
        {"type": "heading", "size": 2, "text": "Opening hours"},
        {"type": "paragraph", "text": ["Open from ", {"type": "bold", "text": "nine"}, " to five."]},
        {"type": "list", "items": [
            {"blocks": [{"type": "paragraph", "text": "bring a bag"}]},
            {"label": "2.", "text": ["or ", "two"]},
        ]},
        {"type": "table", "cells": [[{"text": "Mon"}, {"text": {"type": "link", "text": "shut"}}]]},
        {"type": "photo", "photo": {"id": "x"}, "caption": {"text": "the shop", "credit": "Ana"}},
        {"type": "divider"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("members", [{"text": "", "text_entities": []}, {"text": None}, {"text": []}, {}])
def test_the_text_of_a_rich_message_is_found(read: Read, members: Json) -> None:
    (row,), _ = read(chat(message(**members, rich_message=RICH)))
    lines = ["Opening hours", "Open from nine to five.", "bring a bag", "2.", "or two", "Mon", "shut"]
    assert row["text"].splitlines()[:7] == lines
    assert {"the shop", "Ana"} <= set(row["text"].splitlines())
    assert document(row["extra"]) == {"rich_message": RICH}


def plain(words: str) -> Json:
    return {"type": "plain", "text": words}


def test_a_rich_message_of_release_7_is_read_by_lines(read: Read) -> None:
    """Of its members that are not texts, ``content`` and the names of anchors look like one."""
    line = [plain("From "), {"type": "bold", "text": plain("nine")},
            {"type": "math", "source": "x"}, {"type": "inline_image", "document_id": "5"}, {"type": "empty"},
            plain(" on")]  # fmt: skip
    blocks = [
        {"type": "anchor", "name": "top"},
        {"type": "paragraph", "text": {"type": "concat", "text": line}},
        {"type": "list", "kind": "unordered", "items": [
            {"task_state": "none", "content": "text", "text": plain("a bag")},
            {"task_state": "none", "content": "blocks",
             "blocks": [{"type": "paragraph", "text": plain("deep")}]},
        ]},
        {"type": "table", "title": {"type": "empty"}, "rows": [{"cells": [{"text": plain("cell")}]}]},
        {"type": "math", "formula": "E"},
        {"type": "related_articles", "title": plain("More"),
         "articles": [{"title": "A", "description": "of it"}]},
        {"type": "button_row", "buttons": [{"text": plain("Go"), "button": {"type": "url", "url": "e.org"}}]},
    ]  # fmt: skip
    (row,), _ = read(chat(message(rich_message={"rtl": False, "part": False, "blocks": blocks})))
    lines = ["From ninex on", "a bag", "deep", "cell", "E", "More", "A", "of it", "Go"]
    assert row["text"].splitlines() == lines


def test_a_text_beside_a_rich_message_is_kept(read: Read) -> None:
    (row,), _ = read(chat(message(text="plain", rich_message=RICH)))
    assert row["text"] == "plain"


@pytest.mark.parametrize(
    "rich", ["words", ["a", ["b"]], None, 5, {}, {"new": {"deeper": [{"text": "words"}]}}]
)
def test_a_rich_message_can_have_any_form(read: Read, rich: Any) -> None:
    (row,), reading = read(chat(message(text="", rich_message=rich)))
    assert ("words" in row["text"]) == ("words" in str(rich))
    assert reading.reason is None


def test_a_rich_message_that_is_nested_too_deep_costs_only_its_text(read: Read) -> None:
    deep = '{"blocks": [' * 450 + "]}" * 450
    text = json.dumps(chat(message(text="", rich_message="DEEP"), message(id=2)), indent=1)
    rows, reading = read(text.replace('"DEEP"', deep))
    assert [row["text"] for row in rows] == ["", ""]
    assert reading.reason is None
