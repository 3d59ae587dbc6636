"""The result of reading a source file apart from its messages: its chats and the problems found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import msgspec
import pyarrow as pa

from flows.exports.columns import CHATS
from flows.exports.held import Held, note

#: Problems listed in the reason; an archive may hold thousands of exports with one problem each.
_SHOWN = 5
#: Characters of a chat's name in its column, which PostgreSQL indexes; Telegram allows 255.
_NAME = 500
T = TypeVar("T")
R = TypeVar("R")


class Map(Protocol):
    """The builtin ``map``, or one that does the work in other processes: results are in order."""

    def __call__(self, work: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
        """Yield ``work`` of each item."""
        ...


@dataclass
class Chat:
    """One chat of one export: a row of the schema CHATS without its source."""

    chat_key: str
    chat_id: int | None
    type: str | None
    name: str | None
    account: str | None
    form: str
    messages: int = 0
    extra: str | None = None
    #: Whether it is one of the chats of a whole account.
    of_account: bool = False
    #: The id of the topic if the export is of one topic, whose title is the ``name``.
    topic: int | None = None
    #: What the export holds of it; None: another object counts that.
    held: Held | None = field(default_factory=Held, compare=False)

    def note(self, rows: pa.RecordBatch) -> None:
        """Count messages of this chat."""
        note_all(rows, [(self, rows.num_rows)])


def note_all(rows: pa.RecordBatch, chats: Sequence[tuple[Chat, int]]) -> None:
    """Count messages: so many rows of each chat, one after the other."""
    for chat, count in chats:
        chat.messages += count
    parts = [(chat.held, count) for chat, count in chats if chat.held]
    if parts and len(parts) == len(chats):
        note(rows, parts)


@dataclass
class Reading:
    """Collects results while the exports of one source file (entry name ``source``) are read.

    ``lost`` counts unreadable messages, ``without_id`` messages without an integer id, which cannot be
    stored, ``not_utf8`` texts in another encoding, whose characters were replaced. ``problems`` are written
    for the operator.
    """

    source: str
    chats: list[Chat] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    lost: int = 0
    without_id: int = 0
    not_utf8: int = 0

    def add(self, other: Reading, name: str) -> None:
        """Add what was found in an export of the same source file; its problems get its ``name``, if any."""
        self.chats += other.chats
        self.problems += [f"{name}: {problem}" if name else problem for problem in other.problems]
        self.lost += other.lost
        self.without_id += other.without_id
        self.not_utf8 += other.not_utf8

    @property
    def messages(self) -> int:
        """The number of messages kept."""
        return sum(chat.messages for chat in self.chats)

    @property
    def reason(self) -> str | None:
        """The problems as one text for the operator; None if there are none."""
        parts = self.problems[:_SHOWN]
        if len(self.problems) > _SHOWN:
            parts.append(f"and {len(self.problems) - _SHOWN} more problems")
        if self.lost:
            parts.append(f"{self.lost} unreadable {_messages(self.lost)} left out")
        if self.without_id:
            parts.append(f"{self.without_id} {_messages(self.without_id)} without a usable id left out")
        if self.not_utf8:
            texts = "1 text that is" if self.not_utf8 == 1 else f"{self.not_utf8} texts that are"
            parts.append(f"characters were replaced in {texts} not UTF-8: export it again")
        return "; ".join(parts) or None

    def chat_rows(self, *, damaged: bool = False) -> pa.RecordBatch:
        """Return the chats in the schema CHATS; ``damaged``: something of the source file was not read."""
        damaged = damaged or self.reason is not None
        rows = [
            {**vars(chat), **_cut(chat), **_held(chat, damaged), "source": self.source} for chat in self.chats
        ]
        return pa.RecordBatch.from_pylist(rows, schema=CHATS)


def _held(chat: Chat, damaged: bool) -> dict[str, Any]:
    held = chat.held or Held()
    whole = held.is_whole(chat.type, chat.form, of_account=chat.of_account)
    return held.columns() | {"whole": whole and not damaged}


def _cut(chat: Chat) -> dict[str, str]:
    """Return a name that is too long for its column cut, and whole in ``extra``."""
    if len(chat.name or "") <= _NAME or not chat.name:
        return {}
    extra = msgspec.json.decode(chat.extra or "{}", type=dict[str, msgspec.Raw])
    whole = {"name": chat.name, **extra}
    return {"name": chat.name[:_NAME], "extra": msgspec.json.encode(whole).decode()}


def _messages(count: int) -> str:
    return "message" if count == 1 else "messages"
