"""A file that came without an archive around it, as it is or compressed: an archive of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from flows.stages.extract.archives.base import Contents, Member, Readable, chunks_of
from flows.stages.extract.archives.streams import Forward
from flows.stages.extract.limits import Budget, Meter


class Bare:
    """An export's own file, at ``path``."""

    def __init__(self, path: Path, name: str) -> None:
        """Present the file at ``path`` as a member called ``name``."""
        self.path = path
        self._name = name

    def members(self) -> Iterable[Member]:
        """Return the file as the only member."""
        return [Member(self._name, self.path.stat().st_size)]

    def read(self, wanted: Sequence[Member]) -> Contents:
        """Yield the file, once for every time it is wanted."""
        for member in wanted:
            with self.path.open("rb", buffering=0) as stream:
                yield member, chunks_of(stream)


class Compressed:
    """One file in a compressed stream, which ``new_stream`` gives from its start each time."""

    def __init__(self, new_stream: Callable[[], Readable], name: str, budget: Budget) -> None:
        """Present it as a member called ``name``."""
        self._new_stream, self._name = new_stream, name
        self._meter = Meter(budget)

    def members(self) -> Iterable[Member]:
        """Return the file as the only member; its size is not known before it is read."""
        return [Member(self._name, 0)]

    def read(self, wanted: Sequence[Member]) -> Contents:
        """Yield the file, once for every time it is wanted."""
        for member in wanted:
            yield member, chunks_of(Forward(self._new_stream(), self._meter))
