"""What the members of a chat in JSON and its first messages say about the chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from flows.exports import ids
from flows.exports.reading import Chat
from flows.exports.repair import Message, repaired


def senders_of(messages: list[Message]) -> set[int | str | None]:
    """Return the ids of senders and actors as they are written."""
    raws = {bytes(message[key]) for message in messages for key in ("from_id", "actor_id") if key in message}
    return {decoded(raw, int | str | None, None) for raw in raws}


def topic_of(chat: Chat, messages: Sequence[Message]) -> int | None:
    """Return the id of the topic if an export that begins with ``messages`` is of one topic of a forum.

    It begins with the creation of the topic, and Telegram Desktop names it after the topic.
    """
    first = messages[0] if messages else {}
    if bytes(first.get("action", b"")) != b'"topic_created"':
        return None
    title = decoded(first.get("title", b"null"), str | None, None)
    topic: int | None = decoded(first.get("id", b"null"), ids.Int64 | None, None)
    return topic if title == chat.name else None


def decoded(raw: bytes, kind: Any, default: Any, *, strict: bool = True) -> Any:
    """Decode one value; if not ``strict``, a number can be in quotes."""
    try:
        return msgspec.json.decode(repaired(raw) or b"null", type=kind, strict=strict)
    except msgspec.DecodeError:
        return default


def extra_of(chat: Chat, members: dict[str, bytes]) -> str | None:
    """Return the members of a chat that its columns do not hold, as a JSON object; None if there are none."""
    columns = {"id": chat.chat_id, "type": chat.type, "name": chat.name}
    found = {key: repaired(raw) for key, raw in members.items() if columns.get(key) is None}
    kept = {
        key: msgspec.Raw(raw) for key, raw in found.items() if raw and (key not in columns or raw != b"null")
    }
    if chat.topic:
        kept["topic"] = msgspec.Raw(b"%d" % chat.topic)
    return msgspec.json.encode(kept).decode() if kept else None
