"""Count the new, changed and known messages of each source file in a load.

Chats are counted by their own exports first. A chat that is joined with others is counted again: a message
that was loaded from an export of one of the others is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from flows.stages.store.joining import Chat

#: Source file (ledger id; 0: none) and key of a chat.
_Part = tuple[int, str]


class Tally:
    """The messages of each source file of a load, counted per chat while it is loaded."""

    def __init__(self, chats: Iterable[Chat]) -> None:
        """``chats``: the rows of ``chats.parquet``, each with its ``source_id``."""
        self._rows: Counter[_Part] = Counter()
        for chat in chats:
            self._rows[chat["source_id"], chat["chat_key"]] += chat["messages"]
        self._new: Counter[_Part] = Counter()
        self._changed: Counter[_Part] = Counter()

    def fresh(self, chat_keys: Collection[str]) -> None:
        """Count all messages of these chats as new."""
        self._new.update({part: rows for part, rows in self._rows.items() if part[1] in chat_keys})

    def merged(self, found: Iterable[tuple[int, str, int, int]]) -> None:
        """Count the rows that were inserted: source, chat, messages that were new, messages that changed."""
        for source, key, new, changed in found:
            self._new[source, key] += new
            self._changed[source, key] += changed

    def joined(self, chat_keys: Collection[str], found: Iterable[tuple[int, str, int]]) -> None:
        """Replace the numbers of new messages of these chats by those that are new in the joined chat."""
        self._new = Counter({part: rows for part, rows in self._new.items() if part[1] not in chat_keys})
        for source, key, new in found:
            self._new[source, key] += new

    def by_source(self) -> dict[int, dict[str, int]]:
        """Return ``rows_new``, ``rows_changed`` and ``rows_same`` of each source file in the ledger."""
        rows, new, changed = map(_per_source, (self._rows, self._new, self._changed))
        return {
            source: {
                "rows_new": new[source],
                "rows_changed": changed[source],
                "rows_same": max(rows[source] - new[source] - changed[source], 0),
            }
            for source in rows
            if source
        }


def _per_source(counts: Counter[_Part]) -> Counter[int]:
    found: Counter[int] = Counter()
    for (source, _), number in counts.items():
        found[source] += number
    return found
