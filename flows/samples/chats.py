"""Chats of every type, with people in them; ids and names never repeat within one run of the generator."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from flows.samples import words

#: Types whose chats can be exported one by one without meeting another account's chat of the same key.
SINGLE_TYPES = [
    "personal_chat", "public_channel", "private_supergroup", "saved_messages", "private_group",
    "public_supergroup", "bot_chat", "private_channel",
]  # fmt: skip
#: The order in which a whole account lists them; the last two have one chat per account and no name.
ACCOUNT_TYPES = [*SINGLE_TYPES, "replies", "verification_codes"]
NAMELESS = frozenset({"saved_messages", "replies", "verification_codes"})
CHANNELS = frozenset({"public_channel", "private_channel"})
#: Seconds that exporters' clocks are ahead of UTC: Los Angeles to Auckland, Kathmandu between.
_OFFSETS = [-28_800, 0, 3_600, 10_800, 19_800, 20_700, 28_800, 46_800]
GROUPS = frozenset({"private_group", "private_supergroup", "public_supergroup"})


@dataclass(frozen=True)
class Peer:
    """Somebody who writes: ``key`` as ``from_id`` has it (``user5``); no name once the account is deleted."""

    key: str
    name: str | None


@dataclass
class Chat:
    """One chat; ``media`` fills with the path and size of every file its messages point to."""

    type: str
    id: int
    name: str | None
    people: list[Peer]
    offset: int
    """Seconds the exporter's clock is ahead of UTC."""
    media_bytes: int
    """Size of each media file; 0 leaves all media out, as most exports do."""
    media: dict[str, int] = field(default_factory=dict)

    @property
    def is_channel(self) -> bool:
        """Whether posts appear in the chat's own name."""
        return self.type in CHANNELS


class Numbers:
    """Ids that no two files of one seed share, and rarely two seeds (2 million ids each, below 2**31)."""

    def __init__(self, seed: int, index: int, *, long: bool) -> None:
        """Start where no other index of the seed does; ``long`` lifts users above 2**32, as today's are."""
        self._next = 1_000_000 + seed % 1_000 * 2_000_000 + index * 100
        self._lift = 5_000_000_000 if long else 0

    def take(self) -> int:
        """Return the next free id."""
        self._next += 1
        return self._next

    def user(self) -> str:
        """Return the key of the next user."""
        return f"user{self.take() + self._lift}"


def make_chat(
    rng: Random, numbers: Numbers, kind: str, account: Peer, media_bytes: int, *, named: bool = False
) -> Chat:
    """Return a chat of type ``kind`` as ``account`` sees it; ``named`` keeps it from having no name."""
    user = numbers.user()
    number = int(user.removeprefix("user")) if kind in {"personal_chat", "bot_chat"} else numbers.take()
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
