"""Blocks of messages read side by side: one process scans the file, others that it forked read its blocks.

To read a block takes twenty times as long as to scan it, and needs nothing of the blocks before it, once it
is known whose messages they are. A forked reader has Arrow loaded, and shares our memory.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from typing import TypeVar

from flows.errors import BadInput

#: Bytes of a file from which on readers are worth their start.
WORTH = 16 << 20
#: More would wait for whoever scans.
_READERS = 4
#: Items under way at a time: those in hand, and as many that wait.
_AHEAD = 2 * _READERS
T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def readers(largest: int) -> Iterator[Executor | None]:
    """Hold a reader for each processor, if the ``largest`` file (in bytes) is worth it, else None.

    To be called before other threads are at work: a fork copies no thread, but any lock it holds.
    """
    count = min(_READERS, _processors())
    if largest < WORTH or count < 2:
        yield None
        return
    # Only now: small files shall not pay for these imports.
    from concurrent.futures.process import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(count, get_context("fork")) as pool:
        pool.submit(int)  # at the first call it forks them all
        yield pool


def in_order(pool: Executor, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield ``work`` of each item, in order, while the ``pool`` works on those that follow.

    Where a reader was killed, what is left is done here: if the data did it, this process ends in the same
    way, and whoever looks after it learns of that. Raises what ``work`` raises, and BadInput of ``items``
    once all before it are done.
    """
    left = iter(items)
    ahead: deque[tuple[T, Future[R] | None]] = deque()
    end: StopIteration | BadInput | None = None
    while ahead or not end:
        while not end and len(ahead) < _AHEAD:
            try:
                item = next(left)
            except (StopIteration, BadInput) as error:
                end = error
            else:
                ahead.append((item, _begun(pool, work, item)))
        if ahead:
            yield _done(work, *ahead.popleft())
    if isinstance(end, BadInput):
        raise end


def _begun(pool: Executor, work: Callable[[T], R], item: T) -> Future[R] | None:
    try:
        return pool.submit(work, item)
    except BrokenExecutor:
        return None


def _done(work: Callable[[T], R], item: T, begun: Future[R] | None) -> R:
    try:
        if begun:
            return begun.result()
    except BrokenExecutor:
        pass
    return work(item)


def _processors() -> int:
    # Elsewhere a fork is not safe beside the system's own threads.
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
