"""Find the chats that a user names."""

from __future__ import annotations

from collections.abc import Sequence

from flows.errors import ChatUnknown
from flows.ledger.connection import Connection
from flows.ledger.named_sql import load

_sql = load("tables.sql", as_dicts=False)
_SHOWN = 10


def chat_keys(connection: Connection, given: Sequence[str]) -> list[str] | None:
    """Return the key of each chat that is named; None for no names. Raises ChatUnknown."""
    return [chat_key(connection, name) for name in given] or None


def chat_key(connection: Connection, given: str) -> str:
    """Return the key of the one chat with this key, id or name, or else with this part of a name.

    Raises ChatUnknown if there is none, or more than one: the message lists them.
    """
    if not given.strip():
        raise ChatUnknown("the name of the chat is empty, and would fit every chat")
    found = list(_sql.matching_chats(connection, given=given))
    if len(found) == 1:
        return str(found[0][0])
    if not found:
        raise ChatUnknown(
            f"no chat has the key, the id or a name like {given!r}; `tdp export - --what chats` lists all"
        )
    lines = [
        f"  {key}  {name or '(no name)'}  ({kind or 'type unknown'})" for key, name, kind in found[:_SHOWN]
    ]
    lines += [f"  and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    raise ChatUnknown(f"{given!r} is one of {len(found)} chats; name it by its key:", *lines)


def chat_names(connection: Connection, keys: Sequence[str]) -> list[tuple[str, str | None]]:
    """Return key and name of each of these chats, in this order."""
    names = {row[0]: row[3] for row in _sql.rows_of_chats(connection, chats=list(keys))}
    return [(key, names.get(key)) for key in dict.fromkeys(keys)]
