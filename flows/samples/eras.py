"""Rewrite messages as older releases of Telegram Desktop wrote them."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from flows.samples.messages import Message

#: Old releases wrote peers as numbers, from October 2020 to May 2021 with these added for the kind of peer.
_SHIFTS = {"user": 1 << 32, "chat": 2 << 32, "channel": 2 << 32}
_PEER = re.compile(r"(user|chat|channel)(\d+)")
_NEWER = {
    "2019": {"date_unixtime", "edited_unixtime", "text_entities", "forwarded_from_id", "reply_to_peer_id",
             "photo_file_size", "file_size", "thumbnail_file_size", "file_name", "reactions",
             "inline_bot_buttons", "media_spoiler", "todo_list", "contact_vcard_file_size"},
    "2021": {"date_unixtime", "edited_unixtime", "text_entities", "reactions", "inline_bot_buttons",
             "todo_list"},
    "2022": {"reactions", "inline_bot_buttons", "todo_list", "file_name"},
}  # fmt: skip
_NEWER["2020"] = _NEWER["2019"]
#: The releases in which a sender was a number.
NUMERIC = frozenset({"2019", "2020"})
ERAS = ["2025", "2019", "2025", "2020", "2021", "2025", "2022"]


def written_in(era: str, messages: list[Message]) -> list[Message]:
    """Return ``messages`` with the keys and ids of exports of ``era``."""
    newer = _NEWER.get(era, set())
    kept = [{key: value for key, value in message.items() if key not in newer} for message in messages]
    if era in NUMERIC:
        for message in kept:
            for key in ("from_id", "actor_id", "to_id"):
                if key in message:
                    message[key] = _number(message[key], shifted=era == "2020")
    return kept


def dump(era: str, export: Any) -> bytes:
    """Return the text of ``result.json``, indented as by Telegram Desktop.

    Release 4.1.1 (2022) omits the quotes of ``document_id`` (tdesktop issue 24961), and every release writes
    control characters as ``\\x01``, which is invalid JSON (issue 27571): exports of that era have both.
    """
    text = msgspec.json.format(msgspec.json.encode(export), indent=1)
    if era == "2022":
        text = re.sub(rb'"document_id": "([^"\n]*)"', rb'"document_id": \1', text)
        text = text.replace(b'"text": "ok"', rb'"text": "o\x01k"')
    return text


def _number(peer: str, *, shifted: bool) -> int:
    match = _PEER.fullmatch(peer)
    assert match, peer  # noqa: S101 - the generator's own ids
    kind, number = match[1], int(match[2])
    return (_SHIFTS[kind] if shifted else 0) + number
