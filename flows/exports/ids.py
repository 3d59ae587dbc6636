"""Ids of peers in the forms of all releases of Telegram Desktop, and keys of chats."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec

from flows.exports.repair import Message

#: The type of ids that are stored as numbers.
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]

_PEER = re.compile(r"(?:user|channel|chat)\d{1,19}", re.ASCII)
_NUMBER = re.compile(r"-?\d{1,19}", re.ASCII)
_USERS, _CHATS, _END = 1 << 32, 2 << 32, 3 << 32
#: Members of messages since 2022: beside them, integers are ids that another program wrote, without offsets.
LATER = frozenset({"date_unixtime", "text_entities"})
#: The Bot API and libraries write -id for groups, and this number less for channels and supergroups.
_MARK = -(10**12)

#: Ends of the names of chat types whose ids are unique in all of Telegram.
_GLOBAL = ("channel", "supergroup")
#: Chat types without a peer of their own.
_WITHOUT_PEER = ("replies", "verification_codes")


def peer_id(value: int | str | None, *, shifted: bool = True) -> str | None:
    """Return ``user1``, ``channel2`` or ``chat3`` for an id as an export writes it; None if it is invalid.

    Releases before 2021-05 wrote integers (other programs may put them in quotes); from 2020-10 on with 2**32
    added for users and 2**33 for groups and channels (kUserPeerIdShift, kChatPeerIdShift in tdesktop's
    export_data_types.cpp). The number does not distinguish groups from channels; only channels and
    supergroups write messages, so it is a channel. If not ``shifted``, the integer is the id itself: other
    programs write it so, and today's ids of users are as great. Their negative numbers are groups and
    channels.
    """
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            return value if _PEER.fullmatch(value) else None
        value = int(value)
    if not value or not -(1 << 63) < value < 1 << 63:
        return None
    if value < 0:
        return f"channel{_MARK - value}" if value < _MARK else f"chat{-value}"
    if shifted and _CHATS < value < _END:
        return f"channel{value - _CHATS}"
    return f"user{value - _USERS if shifted and _USERS < value < _CHATS else value}"


class PeerIds(dict[int | str | None, str | None]):
    """A cache of :func:`peer_id`: a chat has few senders and many messages.

    ``has_great``: some of them are numbers that may have an offset (:func:`is_great`).
    """

    has_great = False

    def __missing__(self, value: int | str | None) -> str | None:
        """Compute and cache the id for ``value``."""
        if len(self) > 100_000:
            self.clear()
        self.has_great |= is_great(value)
        self[value] = found = peer_id(value)
        return found


def is_bare_number(value: int | str | None) -> bool:
    """Return whether an id is a number, as releases before 2021-05 wrote it."""
    return isinstance(value, int) or (isinstance(value, str) and _NUMBER.fullmatch(value) is not None)


def is_great(value: int | str | None) -> bool:
    """Return whether an id is a number that has an offset, or that of a user since the end of 2021."""
    return value is not None and is_bare_number(value) and _USERS < int(value) < _END


def kind_of(chat_id: int | None) -> str | None:
    """Return what the sign of a chat's id says about its type."""
    return None if chat_id is None or chat_id >= 0 else "channel" if chat_id < _MARK else "group"


def bare_chat_id(chat_id: int, kind: str, shifted: bool) -> int:
    """Return a chat's id without the offset that releases of 2018-12 (1.5.8) to 2021-05 wrote.

    ``shifted``: the ids of its senders are numbers, so the chat's id has the offset (the senders have it only
    from 2020-10 on). Today's ids of users are as large, so the offset cannot be recognised by the id.
    """
    if chat_id < 0:
        return _MARK - chat_id if chat_id < _MARK else -chat_id
    users = not kind.endswith(("channel", "group"))
    if users:
        return chat_id - _USERS if shifted and _USERS < chat_id < _CHATS else chat_id
    return chat_id - _CHATS if _CHATS < chat_id < _END else chat_id


def chat_key(kind: str, chat_id: int | None, name: str | None, account: str | None) -> str:
    """Return the key of a chat of an export's ``type``, as flows.exports.columns describes it.

    The key of a floating chat is returned without its :func:`start_mark`.
    """
    at = f"@{account}" if account else ""
    if kind in _WITHOUT_PEER:
        return kind + at
    if chat_id is None:
        return named_key(name or kind)
    if kind.endswith(_GLOBAL):
        return f"channel{chat_id}"
    return f"{'chat' if kind.endswith('group') else 'user'}{chat_id}{at}"


def named_key(name: str) -> str:
    """Return the key of a chat that is identified by its name only, without its :func:`start_mark`."""
    return f"html-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def is_floating(key: str) -> bool:
    """Return whether a key has neither a channel nor an account, so that several chats may share it."""
    return not key.startswith("channel") and "@" not in key


def start_mark(messages: Sequence[Message]) -> str:
    """Return the end of a floating key for a chat that begins with ``messages``: ``~1a2b3c4d``.

    It is a hash of the id and time of the first message that has a time. (Service messages in HTML have none,
    and all channels begin with the same one.) If no message has a time, all of the first message is hashed.
    """
    if not messages:
        return ""
    timed = ((message, time) for message in messages if (time := _time(message)))
    first, time = next(timed, (messages[0], None))
    hashed = [bytes(first.get("id", b"")), time] if time else [bytes(raw) for raw in first.values()]
    return f"~{hashlib.sha256(b' '.join(hashed)).hexdigest()[:8]}"


def _time(message: Message) -> bytes | None:
    raws = (bytes(message.get(key, b"null")) for key in ("date_unixtime", "date"))
    return next((raw for raw in raws if raw != b"null"), None)


def account_of(kind: str, chat_id: int | None, senders: Iterable[str | None]) -> str | None:
    """Return the account that exported one chat, if the chat reveals it.

    Saved messages belong to the account itself; in a personal chat the account is the sender that is not the
    peer.
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
