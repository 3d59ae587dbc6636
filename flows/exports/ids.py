"""Who is who: ids of peers in the forms of all releases, and the key of a chat."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec

from flows.exports.repair import Message

#: What an id must be to be kept as a number.
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]

_PEER = re.compile(r"(?:user|channel|chat)\d{1,19}", re.ASCII)
_USERS, _CHATS, _END = 1 << 32, 2 << 32, 3 << 32

#: Chat types whose messages are numbered for all of Telegram, by the end of their names.
_GLOBAL = ("channel", "supergroup")
#: Chat types that have no peer of their own.
_NAMED = ("replies", "verification_codes")


def peer_id(value: int | str | None) -> str | None:
    """Return ``user1``, ``channel2`` or ``chat3`` for what an export writes as an id; None if it is none.

    Bare integers come from releases before 2021-05; from 2020-10 on users had 2**32 added, groups and
    channels 2**33 (kUserPeerIdShift, kChatPeerIdShift in tdesktop's export_data_types.cpp). Which of the
    latter two it was is not said; only channels and supergroups write messages, so it is a channel.
    """
    if isinstance(value, str):
        return value if _PEER.fullmatch(value) else None
    if value is None or not 0 < value < 1 << 63:
        return None
    if _CHATS < value < _END:
        return f"channel{value - _CHATS}"
    return f"user{value - _USERS if _USERS < value < _CHATS else value}"


class PeerIds(dict[int | str | None, str | None]):
    """:func:`peer_id`, remembered: a chat has few senders and many messages."""

    def __missing__(self, value: int | str | None) -> str | None:
        """Work out one that is new."""
        if len(self) > 100_000:
            self.clear()
        self[value] = found = peer_id(value)
        return found


def bare_chat_id(chat_id: int, kind: str, shifted: bool) -> int:
    """Return a chat's id without the shift of 2020-10 to 2021-05; ``shifted`` if its senders' ids had it."""
    users = not kind.endswith(("channel", "group"))
    if users:
        return chat_id - _USERS if shifted and _USERS < chat_id < _CHATS else chat_id
    return chat_id - _CHATS if _CHATS < chat_id < _END else chat_id


def chat_key(kind: str, chat_id: int | None, name: str | None, account: str | None) -> str:
    """Return the key of a chat of an export's ``type``, as flows.exports.columns describes it.

    A floating one lacks its :func:`start_mark`.
    """
    at = f"@{account}" if account else ""
    if kind in _NAMED:
        return kind + at
    if chat_id is None:
        return named_key(name or kind)
    if kind.endswith(_GLOBAL):
        return f"channel{chat_id}"
    return f"{'chat' if kind.endswith('group') else 'user'}{chat_id}{at}"


def named_key(name: str) -> str:
    """Return the key of a chat known by name only, without its :func:`start_mark`."""
    return f"html-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def is_floating(key: str) -> bool:
    """Tell whether a key names neither a channel nor an account, and so may be that of several chats."""
    return not key.startswith("channel") and "@" not in key


def start_mark(messages: Sequence[Message]) -> str:
    """Return the end of a floating key for a chat that begins with ``messages``: ``~1a2b3c4d``.

    It stands for the id and the time of the first message that tells its time, as HTML's service messages do
    not: all channels begin with the same one. Where none does, all that the first message says has to do.
    """
    if not messages:
        return ""
    timed = ((message, time) for message in messages if (time := _time(message)))
    first, time = next(timed, (messages[0], None))
    told = [bytes(first.get("id", b"")), time] if time else [bytes(raw) for raw in first.values()]
    return f"~{hashlib.sha256(b' '.join(told)).hexdigest()[:8]}"


def _time(message: Message) -> bytes | None:
    raws = (bytes(message.get(key, b"null")) for key in ("date_unixtime", "date"))
    return next((raw for raw in raws if raw != b"null"), None)


def account_of(kind: str, chat_id: int | None, senders: Iterable[str | None]) -> str | None:
    """Return the account that exported one chat, if the chat itself gives it away.

    Saved messages are one's own; in a personal chat it is whoever is not the peer.
    """
    if chat_id is None:
        return None
    if kind == "saved_messages":
        return f"user{chat_id}"
    if kind in ("personal_chat", "bot_chat"):
        others = {sender for sender in senders if sender} - {f"user{chat_id}"}
        if len(others) == 1 and (other := others.pop()).startswith("user"):
            return other
    return None
