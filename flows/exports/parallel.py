"""Blocks of messages read side by side, by this process and some that it forked.

To read a block takes twenty times as long as to scan over it, and needs nothing of the blocks before it once
it is known whose messages they are. So each process scans all blocks and reads its share of them: nothing has
to be handed out, and a pipe from each brings what it read. A forked process has Arrow loaded and shares our
memory.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

#: Each takes 60 MB of memory; with two, convert stays below 300 MB.
_MOST = 2
#: Seconds over which to see what the machine's processors do.
_SPAN = 0.1
#: Bytes a reader may be ahead with: about one block. More needs a privilege.
_AHEAD = 1 << 20
T = TypeVar("T")
R = TypeVar("R")


def _spare() -> tuple[float, float]:
    """Return the time, and how long processors idled or worked for our readers since ever, in seconds."""
    if sys.platform != "linux":  # elsewhere a fork is not safe, and there is no /proc
        return time.monotonic(), 0.0
    ticks = int(Path("/proc/stat").read_text().split(maxsplit=5)[4])
    readers = os.times()
    idle = ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic(), idle + readers.children_user + readers.children_system


class Processors:
    """Processors that nobody else needs: beside busy lanes a reader would cost them more than it gains."""

    def __init__(self, quiet: Callable[[], None]) -> None:
        """``quiet`` ends all other threads of this process: a fork copies none, but any lock it holds."""
        self.quiet = quiet
        self._most = min(_MOST, len(os.sched_getaffinity(0)) - 1) if sys.platform == "linux" else 0
        self._seen = _BEFORE
        self._count = 0

    def spare(self) -> int:
        """Return for how many readers there are processors, as of late."""
        (then, spare), now = self._seen, _spare()
        if (span := now[0] - then) >= _SPAN:
            self._seen = now
            self._count = min(self._most, round((now[1] - spare) / span))
        return self._count


#: As it was at this process's start: by the time there is something to read, that is a while ago.
_BEFORE = _spare()


def side_by_side(
    readers: int, items: Iterator[T], work: Callable[[T], R], begin: Callable[[], None]
) -> Iterator[R]:
    """Yield ``work`` of each item, in order; so many forked ``readers`` do their share of it.

    Each reader goes through all ``items``, after ``begin`` has made them independent of ours. What one that
    ended early left undone is done here: if the data ended it, this process ends in the same way, and whoever
    looks after it learns of that. Raises what ``items`` and ``work`` raise, once all before it is done.
    """
    forked: list[_Reader] = []

    def share(turn: int) -> Iterator[R]:
        begin()
        for number, item in enumerate(items):
            if number % (readers + 1) == turn:
                yield work(item)

    try:
        for turn in range(1, readers + 1):
            forked.append(_Reader(share(turn), forked))
        for number, item in enumerate(items):
            turn = number % (readers + 1)
            result = forked[turn - 1].result() if turn else None
            yield work(item) if result is None else result
    finally:
        for reader in forked:
            reader.end()


class _Reader:
    """A process forked to yield its share of the results, and our end of its pipe."""

    def __init__(self, share: Iterator[Any], siblings: list[_Reader]) -> None:
        ours, its = os.pipe()
        self.results = os.fdopen(ours, "rb")
        with suppress(OSError):  # a smaller pipe is slower, no more
            fcntl.fcntl(its, fcntl.F_SETPIPE_SZ, _AHEAD)
        self._pid: int | None = None
        with suppress(OSError):  # without room for one more process, it has ended before it began
            self._pid = os.fork()
        if self._pid == 0:
            try:
                for reader in (self, *siblings):  # so that writing fails once the parent is gone
                    reader.results.close()
                with os.fdopen(its, "wb") as pipe:
                    for result in share:
                        pickle.dump(result, pipe, pickle.HIGHEST_PROTOCOL)
                        pipe.flush()
            finally:
                os._exit(0)  # whatever it met, the parent meets too; none of its files is ours to close
        os.close(its)  # else its end would not be seen

    def result(self) -> Any:
        """Return the next result; None when the process has ended."""
        try:
            return pickle.load(self.results)  # noqa: S301  from our own fork
        except (EOFError, pickle.UnpicklingError):
            return None

    def end(self) -> None:
        """End the process, which may be at work for nobody."""
        self.results.close()
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
