"""Blocks of messages read side by side: one process scans the file, others that it forked read its blocks.

To read a block takes twenty times as long as to scan it, and needs nothing of the blocks before it, once it
is known whose messages they are. A forked reader has Arrow loaded, and shares our memory.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from flows.errors import BadInput

#: Bytes of JSON from which on readers are worth their start.
WORTH = 16 << 20
#: Each takes 60 MB of memory; with two, convert stays below 300 MB.
_READERS = 2
#: Blocks under way at a time: those that a reader has or is about to get, and some for us.
_AHEAD = 8
T = TypeVar("T")
R = TypeVar("R")


def _idle() -> tuple[float, float]:
    """Return the time, and how long the machine's processors have been idle in all, in seconds."""
    ticks = int(Path("/proc/stat").read_text().split(maxsplit=5)[4]) if sys.platform == "linux" else 0
    return time.monotonic(), ticks / os.sysconf("SC_CLK_TCK")


#: As it was when this module was imported: a little before :func:`readers` is called.
_BEFORE = _idle()


@contextmanager
def readers(size: int) -> Iterator[Executor | None]:
    """Hold a reader for each processor that nobody needs, if ``size`` bytes are worth it; None without any.

    Beside busy lanes a reader would cost them more than it gains. To be called before other threads are at
    work: a fork copies no thread, but any lock it holds. Elsewhere than on Linux it is not safe at all.
    """
    (then, idle), (now, idle_now) = _BEFORE, _idle()
    count = min(_READERS, round((idle_now - idle) / (now - then)))
    if size < WORTH or count < 1:
        yield None
        return
    # Only now: small files shall not pay for these imports.
    from concurrent.futures.process import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(count, get_context("fork")) as pool:
        pool.submit(int)  # at the first call it forks them all
        yield pool


def in_order(pool: Executor, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield ``work`` of each item, in order: done by the ``pool``, and here while nothing else is to do.

    Where a reader was killed, what is left is done here: if the data did it, this process ends in the same
    way, and whoever looks after it learns of that. Raises what ``work`` raises, and BadInput of ``items``
    once all before it are done.
    """
    left = iter(items)
    ahead: deque[tuple[T, Future[R]]] = deque()
    end: StopIteration | BadInput | None = None
    while ahead or not end:
        while not end and len(ahead) < _AHEAD:
            try:
                item = next(left)
            except (StopIteration, BadInput) as error:
                end = error
            else:
                ahead.append((item, _begin(pool, work, item)))
        while ahead and not ahead[0][1].done() and _help(work, ahead):
            pass
        if ahead:
            yield _result(work, *ahead.popleft())
    if isinstance(end, BadInput):
        raise end


def _begin(pool: Executor, work: Callable[[T], R], item: T) -> Future[R]:
    try:
        return pool.submit(work, item)
    except BrokenExecutor:
        return _done_here(work, item)


def _help(work: Callable[[T], R], ahead: deque[tuple[T, Future[R]]]) -> bool:
    """Do the last item that no reader has; tell whether there was one. The readers begin at the other end."""
    for place in reversed(range(len(ahead))):
        item, future = ahead[place]
        if future.cancel():
            ahead[place] = item, _done_here(work, item)
            return True
    return False


def _done_here(work: Callable[[T], R], item: T) -> Future[R]:
    future: Future[R] = Future()
    try:
        future.set_result(work(item))
    except Exception as error:
        future.set_exception(error)
    return future


def _result(work: Callable[[T], R], item: T, future: Future[R]) -> R:
    try:
        return future.result()
    except BrokenExecutor:
        return work(item)
