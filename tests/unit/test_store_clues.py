"""The clues of chats and their ranks."""

from __future__ import annotations

import pytest

from flows.stages.store.joining import clues


@pytest.mark.parametrize(
    ("key", "name", "type", "expected"),
    [
        ("channel7", "News", "public_channel", {("name:News", 0)}),
        ("html-0123", " News \n of  today", None, {("name:News of today", 2)}),
        ("html-0123~ab", "News", None, {("name:News", 2), ("start:ab", 2)}),
        ("html-0123~ab", None, None, {("start:ab", 2)}),
        ("user5", "Anna", "personal_chat", {("peer:user5", 2), ("name:Anna", 1)}),
        ("user5~ab", "Anna", "personal_chat", {("peer:user5", 2), ("name:Anna", 1), ("start:ab", 2)}),
        ("user5@user9", None, "personal_chat", {("peer:user5", 0)}),
        ("chat5@user9", "Us", "private_group", {("peer:chat5", 0), ("name:Us", 0)}),
        ("user9@user9", None, "saved_messages", {("peer:user9", 0), ("name:Saved Messages", 0)}),
        ("replies~ab", None, "replies", {("peer:replies", 2), ("name:Replies", 1), ("start:ab", 2)}),
        ("replies@user9", None, "replies", {("peer:replies", 0), ("name:Replies", 0)}),
    ],
)
def test_clues(key: str, name: str | None, type: str | None, expected: set[tuple[str, int]]) -> None:  # noqa: A002 - the column's name
    found = list(clues({"chat_key": key, "name": name, "type": type}))
    assert {(clue.clue, clue.rank) for clue in found} == expected
    assert {clue.chat_key for clue in found} == {key}
