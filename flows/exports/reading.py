"""What reading a source file brought to light besides its messages: chats, and what went wrong."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from flows.exports.columns import CHATS

#: Problems worth an operator's reading; an archive may hold thousands of exports with one each.
_SHOWN = 5


@dataclass
class Chat:
    """One chat of one export: a row of the schema CHATS but for the source."""

    chat_key: str
    chat_id: int | None
    type: str | None
    name: str | None
    account: str | None
    form: str
    messages: int = 0
    extra: str | None = None


@dataclass
class Reading:
    """Filled while the exports of one source file (entry name ``source``) are read.

    ``lost`` counts messages past mending, ``without_id`` those that name no usable integer id, by which alone
    a message can be kept. ``problems`` are sentences for an operator.
    """

    source: str
    chats: list[Chat] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    lost: int = 0
    without_id: int = 0

    @property
    def messages(self) -> int:
        """Messages kept."""
        return sum(chat.messages for chat in self.chats)

    @property
    def reason(self) -> str | None:
        """What went wrong, in a few sentences; None if nothing did."""
        parts = self.problems[:_SHOWN]
        if len(self.problems) > _SHOWN:
            parts.append(f"and {len(self.problems) - _SHOWN} problems more")
        if self.lost:
            parts.append(f"{_messages(self.lost)} could not be read and left out")
        if self.without_id:
            parts.append(f"{_messages(self.without_id)} without a usable id left out")
        return "; ".join(parts) or None

    def chat_rows(self) -> pa.RecordBatch:
        """The chats in the schema CHATS."""
        rows = [{**vars(chat), "source": self.source} for chat in self.chats]
        return pa.RecordBatch.from_pylist(rows, schema=CHATS)


def _messages(count: int) -> str:
    return f"{count} message{'s'[: count != 1]}"
