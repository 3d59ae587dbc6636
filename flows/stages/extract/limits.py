"""What one source file may cost, counted over it and everything packed inside it."""

from __future__ import annotations

from dataclasses import dataclass

from flows.errors import BadInput

#: A ratio means nothing in small files: a list of equal messages shrinks a hundredfold.
_RATIO_FROM = 256 << 20


@dataclass(frozen=True)
class Limits:
    """What one source file may cost: against archives made to fill the disk or the memory.

    ``bytes`` unpacked, ``ratio`` of bytes unpacked to bytes of the source file, ``entries`` in all its
    archives (1 KB of memory each), ``depth`` of folders, ``nesting`` of archives within archives. Texts of
    real exports shrink about 10:1.
    """

    bytes: int = 64_000_000_000
    ratio: int = 200
    entries: int = 300_000
    depth: int = 32
    nesting: int = 3


class TooLarge(BadInput):
    """A source file unpacks to more than its limits allow. If that is no mistake, raise them in the block."""


def too_many(entries: int) -> str:
    """Return the reason to refuse a source file with more than ``entries`` members."""
    return (
        f"it holds over {entries:,} files: pack fewer together,"
        " or raise max_entries of the TDP pipeline block"
    )


class Budget:
    """What is left of the limits of one source file of ``source_bytes`` bytes."""

    def __init__(self, source_bytes: int, limits: Limits) -> None:
        """Start with nothing spent."""
        self.limits = limits
        self._most = min(limits.bytes, max(limits.ratio * source_bytes, _RATIO_FROM))
        self._bytes = 0
        self._entries = 0

    def spend(self, size: int) -> None:
        """Count ``size`` unpacked bytes. Raises TooLarge past the limits."""
        self._bytes += size
        if self._bytes > self._most:
            raise TooLarge(
                f"it unpacks to over {self._most:,} bytes: if that is no mistake, raise max_unpacked_gb or"
                " max_ratio of the TDP pipeline block"
            )

    def enter(self, entries: int = 1) -> None:
        """Count members of an archive. Raises TooLarge past the limit."""
        self._entries += entries
        if self._entries > self.limits.entries:
            raise TooLarge(too_many(self.limits.entries))


class Meter:
    """Counts what a stream unpacks to, once, however often it is read again from its start."""

    def __init__(self, budget: Budget) -> None:
        """Start at the beginning of the stream."""
        self._budget = budget
        self._furthest = 0

    def at(self, position: int) -> None:
        """Note that the stream was unpacked up to ``position``. Raises TooLarge past the limits."""
        if position > self._furthest:
            self._budget.spend(position - self._furthest)
            self._furthest = position
