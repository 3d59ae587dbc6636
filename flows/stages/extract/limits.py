"""Limits for the unpacked data of one source file, including all archives nested in it."""

from __future__ import annotations

from dataclasses import dataclass

from flows.errors import BadInput

#: Unpacked bytes up to which the ratio is not checked: a small list of equal messages compresses 100:1.
_RATIO_FROM = 256 << 20


@dataclass(frozen=True)
class Limits:
    """Limits for one source file, against archives made to fill the disk or the memory.

    ``bytes``: unpacked bytes. ``ratio``: unpacked bytes to bytes of the source file (texts of real exports
    compress about 10:1). ``entries``: members of all its archives (1 KB of memory each). ``depth``: of
    folders. ``nesting``: of archives within archives.
    """

    bytes: int = 64_000_000_000
    ratio: int = 200
    entries: int = 300_000
    depth: int = 32
    nesting: int = 3


class TooLarge(BadInput):
    """A source file unpacks to more than the limits allow. If it is valid, raise the limits in the block."""


def too_many(entries: int) -> str:
    """Return the reason of quarantine for a source file with more than ``entries`` members."""
    return (
        f"it holds over {entries:,} files: pack fewer together,"
        " or raise max_entries of the TDP pipeline block"
    )


class Budget:
    """Counts the unpacked data of a source file of ``source_bytes`` bytes, and checks its limits."""

    def __init__(self, source_bytes: int, limits: Limits) -> None:
        """Start at zero."""
        self.limits = limits
        self._most = min(limits.bytes, max(limits.ratio * source_bytes, _RATIO_FROM))
        self._bytes = 0
        self._entries = 0

    def spend(self, size: int) -> None:
        """Count ``size`` unpacked bytes. Raises TooLarge past the limits."""
        self._bytes += size
        if self._bytes > self._most:
            raise TooLarge(
                f"it unpacks to over {self._most:,} bytes: if the file is valid, raise max_unpacked_gb or"
                " max_ratio of the TDP pipeline block"
            )

    def enter(self, entries: int = 1) -> None:
        """Count members of an archive. Raises TooLarge past the limit."""
        self._entries += entries
        if self._entries > self.limits.entries:
            raise TooLarge(too_many(self.limits.entries))


class Meter:
    """Counts the bytes that a stream unpacks to once, even if the stream is read several times."""

    def __init__(self, budget: Budget) -> None:
        """Start at the beginning of the stream."""
        self._budget = budget
        self._furthest = 0

    def at(self, position: int) -> None:
        """Count the bytes unpacked up to ``position``. Raises TooLarge past the limits."""
        if position > self._furthest:
            self._budget.spend(position - self._furthest)
            self._furthest = position
