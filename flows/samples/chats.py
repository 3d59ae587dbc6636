"""Chats of every type and their members; ids and names are unique within one run of the generator."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from flows.samples import words

#: Types whose single exports never share a key with a chat of another account.
SINGLE_TYPES = [
    "personal_chat", "public_channel", "private_supergroup", "saved_messages", "private_group",
    "public_supergroup", "bot_chat", "private_channel",
]  # fmt: skip
#: The types in the order of a whole account; the last two have one chat per account and no name.
ACCOUNT_TYPES = [*SINGLE_TYPES, "replies", "verification_codes"]
NAMELESS = frozenset({"saved_messages", "replies", "verification_codes"})
CHANNELS = frozenset({"public_channel", "private_channel"})
#: UTC offsets of exporters in seconds: from Los Angeles to Auckland, with Kathmandu.
_OFFSETS = [-28_800, 0, 3_600, 10_800, 19_800, 20_700, 28_800, 46_800]
GROUPS = frozenset({"private_group", "private_supergroup", "public_supergroup"})


@dataclass(frozen=True)
class Peer:
    """A sender: ``key`` as in ``from_id`` (``user5``); ``name`` is None if the account is deleted."""

    key: str
    name: str | None


@dataclass
class Chat:
    """One chat; making its messages adds the path and size of each media file to ``media``."""

    type: str
    id: int
    name: str | None
    people: list[Peer]
    offset: int
    """UTC offset of the exporter in seconds."""
    media_bytes: int
    """Size of each media file; 0: without media, as in most exports."""
    media: dict[str, int] = field(default_factory=dict)

    @property
    def is_channel(self) -> bool:
        """Whether the chat itself is the sender of its messages."""
        return self.type in CHANNELS


class Numbers:
    """Ids that are unique among the files of a seed, and mostly among seeds (2 million each, below 2**31)."""

    def __init__(self, seed: int, index: int, *, long: bool) -> None:
        """Start at a value of this index only; ``long`` raises ids of users above 2**32, like recent ones."""
        self._next = 1_000_000 + seed % 1_000 * 2_000_000 + index * 100
        self._lift = 5_000_000_000 if long else 0

    def next(self) -> int:
        """Return the next free id."""
        self._next += 1
        return self._next

    def user(self) -> str:
        """Return the key of the next user."""
        return f"user{self.next() + self._lift}"


def make_chat(
    rng: Random, numbers: Numbers, kind: str, account: Peer, media_bytes: int, *, named: bool = False
) -> Chat:
    """Return a chat of type ``kind`` as ``account`` sees it; with ``named`` it always has a name."""
    user = numbers.user()
    number = int(user.removeprefix("user")) if kind in {"personal_chat", "bot_chat"} else numbers.next()
    deleted = kind == "personal_chat" and not named and rng.random() < 0.15
    name = None if kind in NAMELESS or deleted else f"{rng.choice(words.TOPICS)} {number}"
    chat = Chat(kind, number, name, [], rng.choice(_OFFSETS), media_bytes)
    if kind == "saved_messages":
        chat.id, chat.people = int(account.key.removeprefix("user")), [account]
    elif chat.is_channel:
        chat.people = [Peer(f"channel{number}", name)]
    elif kind in GROUPS:
        chat.people = [account, *(make_person(rng, numbers) for _ in range(rng.randint(2, 6)))]
        chat.people += [Peer(numbers.user(), None), Peer(f"channel{number}", name)]
    else:
        chat.people = [account, Peer(user, name)]
    return chat


def make_person(rng: Random, numbers: Numbers) -> Peer:
    """Return a person with a name."""
    name = f"{rng.choice(words.FIRST_NAMES)} {rng.choice(words.LAST_NAMES)}".strip()
    return Peer(numbers.user(), name)
