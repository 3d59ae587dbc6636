"""Join chats that are the same: floating chats (see :mod:`flows.exports.columns`) with each other and with
better identified chats.

Two chats are compared if they share a clue and at least one of them is floating because of it. They are the
same if they share a message (same id, second and text), unless an id has messages of different times in them.
Where an instant is unknown, wall clocks of different zones may show the same time.

Chats that are the same form a group, starting from the best identified pairs; but a group never has two chats
that contradict each other or two that do not float, even if other chats connect them. So no message is
overwritten by a different one.

The rows of a group are stored under its best identified chat; the other chats are its aliases. Displaced rows
are kept (``joined_chats``, ``joined_messages``): each load separates the chats that it touches, then decides
again from the rows of each chat's own exports. So the order of loading has no influence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any, NamedTuple
from zlib import crc32

from flows.exports.ids import is_floating
from flows.ledger.connection import Connection
from flows.ledger.locks import LOADING
from flows.ledger.named_sql import load as load_sql

Chat = dict[str, Any]
#: Keys of two chats, the better identified first.
Pair = tuple[str, str]

#: Limits the locks of a load: five concurrent loads fit into a lock table of the default size (some 15,000).
_LOCK_BUCKETS = 2_048
#: Shared message ids that are compared first: chats of different people mostly differ in one of them.
_SAMPLE = 20
#: The names in HTML of chats without a name in JSON.
_TITLES = {
    "saved_messages": "Saved Messages",
    "replies": "Replies",
    "verification_codes": "Verification Codes",
}

sql = load_sql("joining.sql", as_dicts=False)


class Clue(NamedTuple):
    """A property by which chats are matched; ``rank`` 2: the chat is floating because of it, 1: because of
    another, 0: not floating."""

    chat_key: str
    clue: str
    rank: int


def clues(chat: Chat) -> Iterator[Clue]:
    """Yield the clues of a chat: peer (personal chats and basic groups), start (floating chats) and names.

    Saved messages, which HTML titles with the owner's name, have it in ``owner_names``.
    """
    key: str = chat["chat_key"]
    named, floats = key.startswith("html-"), is_floating(key)
    known_as, _, start = key.partition("~")
    if not named and not key.startswith("channel"):
        yield Clue(key, f"peer:{known_as.partition('@')[0]}", 2 if floats else 0)
    if start:
        yield Clue(key, f"start:{start}", 2)
    for name in {chat["name"] or _TITLES.get(chat["type"], ""), *chat.get("owner_names", ())}:
        if title := " ".join(name.split()):
            yield Clue(key, f"name:{title}", 2 if named else int(floats))


def lock(connection: Connection, own: set[Clue]) -> set[Clue]:
    """Lock the clues of all chats that may be joined with those of ``own``; return their clues and ``own``.

    A clue because of which a chat is floating is locked exclusively, any other in shared mode. The previous
    holder of a lock may have added further clues; then all locks are released and acquired again, in order.
    """
    held: dict[int, bool] = {}
    while True:
        found = {Clue(*row) for row in sql.related(connection, **columns(own))}
        contested = {clue.clue for clue in found if clue.rank == 2}
        wanted: dict[int, bool] = {}
        for clue in {clue.clue for clue in found}:
            bucket = crc32(clue.encode()) % _LOCK_BUCKETS
            wanted[bucket] = wanted.get(bucket, False) or clue in contested
        if all(held.get(bucket, -1) >= exclusive for bucket, exclusive in wanted.items()):
            return found
        connection.rollback()
        held = dict(sorted(wanted.items()))
        sql.lock(connection, lock_class=LOADING, buckets=list(held), exclusive=list(held.values()))


def columns(found: Iterable[Clue]) -> dict[str, list[Any]]:
    """Return the clues as parameters of the queries."""
    ordered = sorted(found)
    return {
        "chat_keys": [clue.chat_key for clue in ordered],
        "clues": [clue.clue for clue in ordered],
        "ranks": [clue.rank for clue in ordered],
    }


def separate(connection: Connection, chats: set[str]) -> tuple[set[str], int]:
    """Undo the joining of these chats and of all chats joined with them.

    Returns the keys of all of them, and the number of rows by which the table of messages grew.
    """
    separated = {key for (key,) in sql.joined_with(connection, chat_keys=sorted(chats))}
    keys = sorted(separated)
    deleted = sql.delete_joined(connection, chat_keys=keys)
    restored = sql.restore_messages(connection, chat_keys=keys)
    sql.restore_chats(connection, chat_keys=keys)
    sql.delete_aliases(connection, chat_keys=keys)
    return separated, int(restored - deleted)


def join(connection: Connection, separated: set[str], found: set[Clue]) -> tuple[int, set[str]]:
    """Join the separated chats, and the chats of ``found``, that are the same.

    Returns the number of rows by which the table of messages grew, mostly a negative one, and the keys of all
    chats that were separated.
    """
    same, apart, grown, members = _compare_related(connection, separated, found)
    if aliases := _aliases(same, apart):
        keys = list(aliases)
        sql.add_aliases(connection, aliases=keys, chat_keys=list(aliases.values()))
        sql.join_chats(connection, aliases=keys)
        displaced = sql.join_messages(connection, aliases=keys)
        displaced += sql.join_older(connection, aliases=keys)
        grown += sql.join_newer(connection, aliases=keys) - displaced
    sql.mark_moved(connection, chat_keys=sorted(separated | {clue.chat_key for clue in found}))
    return int(grown), members


def count_joined(
    connection: Connection, keys: set[str], chats: Iterable[Chat]
) -> tuple[set[str], list[tuple[int, str, int]]]:
    """Count the new messages of loaded chats (``keys``) that are joined with others.

    Returns the keys of those chats, and per source file and chat the messages that none of them had before.
    """
    best = dict(sql.aliases_of(connection, chat_keys=sorted(keys)))
    joined = keys & {*best, *best.values()}
    if not joined:
        return joined, []
    sql.create_compared(connection)  # not there if all chats were new
    sources = sorted({chat["source_id"] for chat in chats})
    return joined, list(sql.count_joined(connection, chat_keys=sorted({*best.values()}), sources=sources))


def _compare_related(
    connection: Connection, separated: set[str], found: set[Clue]
) -> tuple[set[Pair], set[Pair], int, set[str]]:
    """Compare the separated chats with all that share a clue, then those that are the same, and so on.

    The latter are separated as well. Returns the pairs that are the same, the pairs that must stay apart, the
    number of rows by which the table of messages grew, and all chats that were separated.
    """
    by_chat, by_clue = defaultdict(list), defaultdict(list)
    for clue in found:
        by_chat[clue.chat_key].append(clue)
        by_clue[clue.clue].append(clue)
    same, apart, compared = set[Pair](), set[Pair](), set[Pair]()
    members, grown = set[str](), 0
    while separated:
        members |= separated
        pairs = {
            _pair(key, other.chat_key)
            for key in separated
            for clue in by_chat[key]
            for other in by_clue[clue.clue]
            if 2 in (clue.rank, other.rank) and other.chat_key != key
        }
        alike, contrary = _compare(connection, pairs - compared)
        compared |= pairs
        same |= alike
        apart |= contrary
        reached = {key for pair in alike for key in pair} - members
        separated, restored = separate(connection, reached) if reached else (reached, 0)
        grown += restored
    # Chats that are connected by others may contradict each other without sharing a clue.
    rest = {_pair(*two) for group in _groups(same, set()) for two in combinations(group, 2)} - compared
    return same, apart | _compare(connection, rest)[1], grown, members


def _compare(connection: Connection, pairs: set[Pair]) -> tuple[set[Pair], set[Pair]]:
    """Return the pairs that are the same and the pairs that must stay apart; the others share no message."""
    same, apart = set[Pair](), {pair for pair in pairs if not is_floating(pair[1])}
    pairs = pairs - apart
    for most in _SAMPLE, None:
        ones, others = [one for one, _ in pairs], [other for _, other in pairs]
        pairs = set()
        for one, other, shared, equal, differ in sql.compare(connection, ones=ones, others=others, most=most):
            if differ:
                apart.add((one, other))
            elif shared == most:
                pairs.add((one, other))
            elif equal:
                same.add((one, other))
    return same, apart


def _aliases(same: set[Pair], apart: set[Pair]) -> dict[str, str]:
    found = dict[str, str]()
    for group in _groups(same, apart):
        best, *others = sorted(group, key=_order)
        found |= dict.fromkeys(others, best)
    return found


def _groups(same: set[Pair], apart: set[Pair]) -> list[set[str]]:
    """Group chats that are the same, the best identified pairs first, without pairs that must stay apart."""
    group_of = {key: {key} for pair in same for key in pair}
    for one, other in sorted(same, key=lambda pair: (_order(pair[0]), _order(pair[1]))):
        mine, theirs = group_of[one], group_of[other]
        if mine is theirs or any(_pair(a, b) in apart for a in mine for b in theirs):
            continue
        mine |= theirs
        group_of |= dict.fromkeys(theirs, mine)
    return list({id(group): group for group in group_of.values()}.values())


def _pair(one: str, other: str) -> Pair:
    return (one, other) if _order(one) < _order(other) else (other, one)


def _order(key: str) -> tuple[bool, bool, str]:
    """Return a sort key, the best identified first: with an account or channel, with a peer, by name only."""
    return is_floating(key), key.startswith("html-"), key
