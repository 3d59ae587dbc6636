"""A single file without an archive, plain or compressed, as an archive with one member."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from flows.stages.extract.archives.base import BEHIND, Contents, Member, chunks_of
from flows.stages.extract.archives.streams import Forward, Unpacked
from flows.stages.extract.limits import Budget, Meter


class Bare:
    """A plain file of an export, at ``path``."""

    problem = None

    def __init__(self, path: Path, name: str) -> None:
        """Present the file at ``path`` as a member called ``name``."""
        self.path = path
        self._name = name

    def members(self) -> Iterable[Member]:
        """Return the file as the only member."""
        return [Member(self._name, self.path.stat().st_size)]

    def read(self, wanted: Sequence[Member]) -> Contents:
        """Yield the file for each of the wanted members."""
        for member in wanted:
            with self.path.open("rb", buffering=0) as stream:
                yield member, chunks_of(stream)


class Compressed:
    """One file in a compressed stream; ``new_stream`` returns the stream from its start."""

    def __init__(self, new_stream: Callable[[], Unpacked], name: str, budget: Budget) -> None:
        """Present the file as a member called ``name``."""
        self._new_stream, self._name = new_stream, name
        self._meter = Meter(budget)
        self._streams: list[Unpacked] = []

    @property
    def problem(self) -> str | None:
        """What could not be read: bytes behind the compressed stream."""
        return BEHIND if any(stream.behind for stream in self._streams) else None

    def members(self) -> Iterable[Member]:
        """Return the file as the only member; its size is unknown until it is read."""
        return [Member(self._name, 0)]

    def read(self, wanted: Sequence[Member]) -> Contents:
        """Yield the file for each of the wanted members."""
        for member in wanted:
            self._streams.append(stream := self._new_stream())
            yield member, chunks_of(Forward(stream, self._meter))
