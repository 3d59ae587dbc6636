"""The texts of the bot: names are data, and no message is too long for Telegram."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flows.bot.config import CLOUD_BYTES, LOCAL_BYTES, Config
from flows.bot.context import names_in
from flows.bot.texts import (
    END,
    ISOLATE,
    File,
    cut,
    outcome_pages,
    status_text,
    too_big,
    units,
    without_hidden,
)

LIMIT = 4096


def file(name: str, **more: Any) -> File:
    batch = {"batch_id": "batch_000001", "batch_status": "COMPLETED", "held": False}
    rest = {"reason": None, "duplicate": False, "size_bytes": 1, "outcome": "STORED", "error": None}
    return File(name=name, **{"state": "RECEIVED", "messages": 2} | batch | rest | more)


def refused(name: str, reason: str) -> File:
    return file(name, state="REFUSED", reason=reason, batch_id=None, batch_status=None, outcome=None)


@pytest.mark.parametrize("name", ["x" * 180, "🙂" * 45], ids=["ascii", "emoji"])
def test_no_status_message_is_too_long(name: str) -> None:
    waiting = file("a.zip", batch_status=None, batch_id=None, outcome=None)
    message = status_text([waiting, *(refused(name, "r" * 600) for _ in range(50))])
    assert units(message) <= LIMIT
    assert "Received 1 of 51 files." in message
    named = message.count("not accepted: ")
    assert f"… and {50 - named} more that were not accepted." in message


@pytest.mark.parametrize("message", ["x" * 9000, "🙂" * 4000, "\n".join(f"line {n}" for n in range(2000))])
def test_what_is_too_long_is_cut(message: str) -> None:
    assert cut("short") == "short"
    assert 500 < units(cut(message)) <= LIMIT


def test_a_name_is_code_and_not_a_link() -> None:
    """Telegram makes links of `export.zip` and mentions of `@anna`, unless they are marked as code."""
    names = ["export.zip", "@anna.zip", "/retry", "🙂 b.zip", "שלום.zip"]
    (page,) = outcome_pages([file(name) for name in names])
    found = [(entity.type, entity.offset, entity.length) for entity in names_in(page)]
    text = page.encode("utf-16-le")
    assert [text[2 * at : 2 * (at + size)].decode("utf-16-le") for _, at, size in found] == names
    assert {kind for kind, _, _ in found} == {"code"}
    assert json.loads(names_in(page)[0].to_json()) == {"length": 10, "offset": found[0][1], "type": "code"}


def test_a_name_in_another_direction_does_not_reorder_its_line() -> None:
    (page,) = outcome_pages([file("שלום.zip")])
    assert f"✅ {ISOLATE}שלום.zip{END}: stored, 2 messages" in page
    for hidden in "\u200e\u200f\u061c\u202e\u2028\u2029\u2067\u0085\ufeff\u00ad\ud800":
        assert without_hidden(f"a{hidden}b") == "a_b"
    assert without_hidden("می\u200cشود 👩\u200d💻.zip") == "می\u200cشود 👩\u200d💻.zip"


def test_a_reason_forges_no_line() -> None:
    (page,) = outcome_pages(
        [file("a.zip", outcome="QUARANTINED", error="no ZIP\u2028✅ b.zip:\n stored\u202e")]
    )
    assert page.splitlines()[-1].endswith("quarantined: no ZIP ✅ b.zip: stored_")


def test_telegram_marks_a_hundred_names_of_a_message() -> None:
    pages = outcome_pages([file(f"{number}.zip") for number in range(200)])
    assert max(len(names_in(page)) for page in pages) <= 100
    assert sum(len(names_in(page)) for page in pages) == 200


@pytest.mark.parametrize(
    ("changed", "limit", "is_own_server_named"),
    [
        ({}, "20 MB", True),
        ({"max_bytes": 5 << 20}, "5 MB", False),
        ({"max_bytes": LOCAL_BYTES, "local_mode": True}, "2,000 MB", False),
    ],
)
def test_remedies_that_would_not_help_are_not_named(
    changed: dict[str, Any], limit: str, is_own_server_named: bool
) -> None:
    reason = too_big(Config("1:x", **{"max_bytes": CLOUD_BYTES} | changed))
    assert reason.startswith(f"it is over {limit}, the most that the bot accepts. ")
    assert ("Bot API server" in reason) == is_own_server_named
