"""Which chats are one: floating ones (see :mod:`flows.exports.columns`), each other's and of one known
better.

Two chats that have a clue in common, by which one of them floats, are compared. They are the same when they
share a message (one id, one second, one text), unless some id stands for messages of different times. What is
the same is grouped, the best known first; but no group holds two chats that contradict each other, or two
that do not float, however they hang together. So no message takes another one's place.

The rows of a group stand under its best known chat; the others are its aliases. What that displaced is kept
(``joined_chats``, ``joined_messages``), so that whatever a load touches is parted before and decided anew
after, from the rows of each chat's own exports: the order in which they came has no say.
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
#: Keys of two chats, the better known first.
Pair = tuple[str, str]

#: However many chats come: five loads at once leave room in a lock table of the default size (some 15,000).
_LOCK_BUCKETS = 2_048
#: Shared message ids that are looked at first: chats of different people mostly differ in one of them.
_GLANCE = 20
#: What HTML calls the chats that have no name in JSON.
_TITLES = {
    "saved_messages": "Saved Messages",
    "replies": "Replies",
    "verification_codes": "Verification Codes",
}

sql = load_sql("joining.sql", as_dicts=False)


class Clue(NamedTuple):
    """What a chat can be recognised by; ``rank`` 2: it floats by this clue, 1: by another one, 0: by none."""

    chat_key: str
    clue: str
    rank: int


def clues(chat: Chat) -> Iterator[Clue]:
    """Yield the clues to a chat: peer (in an account's own chats), start (of a floating one) and name."""
    key: str = chat["chat_key"]
    named, floats = key.startswith("html-"), is_floating(key)
    known_as, _, start = key.partition("~")
    if not named and not key.startswith("channel"):
        yield Clue(key, f"peer:{known_as.partition('@')[0]}", 2 if floats else 0)
    if start:
        yield Clue(key, f"start:{start}", 2)
    title = " ".join((chat["name"] or _TITLES.get(chat["type"], "")).split())
    if title:
        yield Clue(key, f"name:{title}", 2 if named else int(floats))


def lock(connection: Connection, own: set[Clue]) -> set[Clue]:
    """Lock the clues of all chats that ours might be joined with; return those chats' clues, ours included.

    Where a floating chat is involved the clue is locked for us alone, otherwise together with others. Who
    came before us may have brought more of them: then all are let go and locked again, in order.
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
    """Return the clues as the queries take them."""
    ordered = sorted(found)
    return {
        "chat_keys": [clue.chat_key for clue in ordered],
        "clues": [clue.clue for clue in ordered],
        "ranks": [clue.rank for clue in ordered],
    }


def part(connection: Connection, chats: set[str]) -> tuple[set[str], int]:
    """Give these chats, and all that are joined with them, the rows of their own exports back.

    Returns all of them, and what the table of messages grew by.
    """
    together = {key for (key,) in sql.together(connection, chat_keys=sorted(chats))}
    keys = sorted(together)
    gone = sql.part_joined(connection, chat_keys=keys)
    back = sql.part_messages(connection, chat_keys=keys)
    sql.part_chats(connection, chat_keys=keys)
    sql.part_aliases(connection, chat_keys=keys)
    return together, int(back - gone)


def join(connection: Connection, parted: set[str], found: set[Clue]) -> int:
    """Join those parted chats, and those among the chats of ``found``, that are the same.

    Returns what the table of messages grew by, mostly less than nothing.
    """
    same, apart, grown = _reach(connection, parted, found)
    aliases = _aliases(same, apart)
    if not aliases:
        return grown
    keys = list(aliases)
    sql.add_aliases(connection, aliases=keys, chat_keys=list(aliases.values()))
    sql.join_chats(connection, aliases=keys)
    gone = sql.join_messages(connection, aliases=keys)
    gone += sql.join_older(connection, aliases=keys)
    return int(grown + sql.join_newer(connection, aliases=keys) - gone)


def _reach(connection: Connection, parted: set[str], found: set[Clue]) -> tuple[set[Pair], set[Pair], int]:
    """Compare the parted chats with all they may be, then those they are, and so on; part these as well.

    Returns the pairs that are the same, those that must stay apart, and what the table of messages grew by.
    """
    by_chat, by_clue = defaultdict(list), defaultdict(list)
    for clue in found:
        by_chat[clue.chat_key].append(clue)
        by_clue[clue.clue].append(clue)
    same, apart, compared = set[Pair](), set[Pair](), set[Pair]()
    members, grown = set[str](), 0
    while parted:
        members |= parted
        pairs = {
            _pair(key, other.chat_key)
            for key in parted
            for clue in by_chat[key]
            for other in by_clue[clue.clue]
            if 2 in (clue.rank, other.rank) and other.chat_key != key
        }
        alike, contrary = _compare(connection, pairs - compared)
        compared |= pairs
        same |= alike
        apart |= contrary
        reached = {key for pair in alike for key in pair} - members
        parted, back = part(connection, reached) if reached else (reached, 0)
        grown += back
    # Those that hang together by others may contradict each other without a clue in common.
    rest = {_pair(*two) for group in _groups(same, set()) for two in combinations(group, 2)} - compared
    return same, apart | _compare(connection, rest)[1], grown


def _compare(connection: Connection, pairs: set[Pair]) -> tuple[set[Pair], set[Pair]]:
    """Return the pairs that are the same, and those that must stay apart; others have nothing in common."""
    same, apart = set[Pair](), {pair for pair in pairs if not is_floating(pair[1])}
    pairs = pairs - apart
    for most in _GLANCE, None:
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
    """Group what is the same, the best known pairs first, but nothing that must stay apart."""
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
    """The better known first: with an account or a channel, then with a peer, then by the name alone."""
    return is_floating(key), key.startswith("html-"), key
