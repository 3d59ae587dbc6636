"""Read blocks of messages, or parts of HTML, in parallel, in this process and in processes that it forks.

Reading a block takes twenty times as long as scanning over it, and does not depend on the blocks before it
once the chat is identified. So each process scans all blocks and reads its share of them: no work has to be
distributed, and each forked process returns its results through a pipe. A forked process has Arrow loaded
already and shares the memory of its parent.
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
_MAX_READERS = 2
#: Seconds over which the idle time of the processors is measured, at least.
_SAMPLE_SECONDS = 0.1
#: Bytes of results that a pipe holds: about one block. A larger pipe needs a privilege.
_PIPE_BYTES = 1 << 20
T = TypeVar("T")
R = TypeVar("R")


def _idle_time() -> tuple[float, float]:
    """Return the time, and the seconds that processors were idle or ran our own readers since the start."""
    if sys.platform != "linux":  # on other systems forking is not safe, and there is no /proc
        return time.monotonic(), 0.0
    ticks = int(Path("/proc/stat").read_text().split(maxsplit=5)[4])
    readers = os.times()
    idle = ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic(), idle + readers.children_user + readers.children_system


class Processors:
    """Counts idle processors: readers use only those, as busy lanes would lose more than a reader gains."""

    def __init__(self, stop_threads: Callable[[], None]) -> None:
        """``stop_threads`` ends all other threads of this process: a fork copies the locks that they hold."""
        self.stop_threads = stop_threads
        self._most = min(_MAX_READERS, len(os.sched_getaffinity(0)) - 1) if sys.platform == "linux" else 0
        self._sample = _AT_START
        self._count = 0

    def idle(self) -> int:
        """Return the number of readers for which there were idle processors since the last sample."""
        (then, idle), now = self._sample, _idle_time()
        if (span := now[0] - then) >= _SAMPLE_SECONDS:
            self._sample = now
            self._count = min(self._most, round((now[1] - idle) / span))
        return self._count


#: Sampled at the start of this process: long enough before the first read.
_AT_START = _idle_time()


def parallel_map(
    readers: int, items: Iterator[T], work: Callable[[T], R], begin: Callable[[], None]
) -> Iterator[R]:
    """Yield ``work`` of each item, in order; each of the forked ``readers`` does its share of it.

    Each reader iterates over all ``items``, after ``begin`` has made them independent of the parent's. This
    process does the items of which a reader returns None, and the share of a reader that has ended early: if
    an item ended the reader, it ends this process in the same way, and the flow detects that. Raises what
    ``items`` and ``work`` raise, after the results of all items before.
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
    """A forked process that writes its share of the results to a pipe, and the reading end of that pipe."""

    def __init__(self, share: Iterator[Any], siblings: list[_Reader]) -> None:
        ours, its = os.pipe()
        self.results = os.fdopen(ours, "rb")
        with suppress(OSError):  # a smaller pipe is only slower
            fcntl.fcntl(its, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._pid: int | None = None
        with suppress(OSError):  # no further process is allowed: treated as a reader that has ended
            self._pid = os.fork()
        if self._pid == 0:
            try:
                for reader in (self, *siblings):  # so that writing fails once the parent has ended
                    reader.results.close()
                with os.fdopen(its, "wb") as pipe:
                    for result in share:
                        pickle.dump(result, pipe, pickle.HIGHEST_PROTOCOL)
                        pipe.flush()
            finally:
                os._exit(0)  # the parent meets the same error; the parent's files must not be closed here
        os.close(its)  # else the end of file would never be seen

    def result(self) -> Any:
        """Return the next result; None if the process has ended or has none."""
        try:
            return pickle.load(self.results)  # noqa: S301  from our own fork
        except (EOFError, pickle.UnpicklingError):
            return None

    def end(self) -> None:
        """End the process, even if it has results left."""
        self.results.close()
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
