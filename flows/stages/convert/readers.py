"""The processes in which convert reads: each gets a piece of the work at a time, and returns its rows.

A piece is a block of a large JSON file, a part of an HTML export, or a small file. A reader is a new
interpreter and not a fork, so that it has no threads, locks or files of ours, and its argument list names no
stage: `pgrep -cf flows.stages.convert` counts one process. A thread per reader writes a piece to its
stdin and waits for the result at its stdout.
"""

from __future__ import annotations

import gc
import math
import os
import pickle
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from flows.stages.runner.crash_history import CRASHES, MAX_CRASHES
from flows.stages.runner.lean_imports import block_optional_imports

#: The first object that a reader gets is the function that it runs: its argument list names no module.
_PROGRAM = "import pickle, sys; pickle.load(sys.stdin.buffer)()"
#: Bytes that a pipe holds: about one piece. A larger pipe needs a privilege.
_PIPE_BYTES = 1 << 20
#: Samples of the number of running threads, and seconds between two of them.
_LOOKS, _BETWEEN_LOOKS = 5, 0.002
_LOAD = Path("/proc/loadavg")
_CGROUPS, _OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
T = TypeVar("T")
R = TypeVar("R")


class ReaderCrashed(Exception):
    """Each reader that received the piece was ended by it, as by a fault in the program."""


class Readers:
    """``count`` reader processes; a context manager that ends them. With one, this process reads itself."""

    def __init__(self, count: int) -> None:
        """Start the processes, which import what they need meanwhile."""
        self.count = count
        self._own = threading.local()
        self._processes: list[_Reader] = []
        self._threads = ThreadPoolExecutor(count, "reader") if count > 1 else None
        for _ in range(count if self._threads else 0):
            self._submit(int, "0")

    def __enter__(self) -> Self:
        """Return the readers themselves."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes: after an error whatever they do, else after their pieces."""
        if self._threads:
            self._threads.shutdown(wait=False, cancel_futures=True)
            for reader in self._processes:
                reader.end(kill=kind is not None)
            self._threads.shutdown()

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield ``work`` of each item, in order; raise what ``items`` and ``work`` raise, in this order too.

        ``items`` are consumed ahead of the results, two per reader. ``work`` and items are pickled.
        """
        if self._threads:
            yield from (future.result() for future in self.futures(work, items))
        else:
            yield from map(work, items)

    def futures(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[Future[R]]:
        """Yield the result of each item as :meth:`map` does, but as a future that may not be done."""
        waiting: deque[Future[R]] = deque()
        try:
            for future in self._submitted(work, items):
                waiting.append(future)
                if len(waiting) > 2 * self.count:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for future in waiting:
                future.cancel()

    def _submitted(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[Future[R]]:
        try:
            for item in items:
                yield self._submit(work, item)
        except Exception as error:
            failed = Future[R]()
            failed.set_exception(error)
            yield failed

    def _submit(self, work: Callable[[T], R], item: T) -> Future[R]:
        assert self._threads, "one reader is this process"  # noqa: S101
        return self._threads.submit(self._result, work, item)

    def _result(self, work: Callable[[T], R], item: T) -> R:
        """Return ``work(item)`` of the reader of this thread, or of others if that one crashes on it.

        Raises ReaderCrashed, OSError if a reader was killed from outside, and what ``work`` raises.
        """
        for _ in range(MAX_CRASHES):
            reader: _Reader | None = getattr(self._own, "reader", None)
            if reader is None:
                reader = self._own.reader = _Reader()
                self._processes.append(reader)
            answer = reader.ask(work, item)
            if answer:
                succeeded, found = answer
                if succeeded:
                    return found  # type: ignore[no-any-return]
                raise found
            self._own.reader = None
            status = reader.end()
            if -status not in CRASHES:
                raise OSError(f"a reader ended with status {status}")
        raise ReaderCrashed(f"the convert program crashed on it {MAX_CRASHES} times (signal {-status})")


class _Reader:
    """A process that runs :func:`serve`."""

    def __init__(self) -> None:
        argv = [sys.executable, "-I", "-c", _PROGRAM]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin, "opened as a pipe"  # noqa: S101
        assert self._process.stdout, "opened as a pipe"  # noqa: S101
        self._work, self._results = self._process.stdin, self._process.stdout
        for pipe in (self._work, self._results):
            _widen(pipe.fileno())
        with suppress(OSError):  # ask() detects it
            pickle.dump(serve, self._work)

    def ask(self, work: Callable[[Any], Any], item: Any) -> tuple[bool, Any] | None:
        """Return whether ``work`` succeeded, and its result or error; None if the process has ended."""
        try:
            pickle.dump((work, item), self._work, pickle.HIGHEST_PROTOCOL)
            self._work.flush()
            answer: tuple[bool, Any] = pickle.load(self._results)  # noqa: S301  from our own process
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            return None
        return answer

    def end(self, *, kill: bool = False) -> int:
        """Wait until the process has ended, by itself or killed; return its exit status."""
        if kill:
            self._process.kill()
        with suppress(OSError):
            self._work.close()
        status = self._process.wait()
        self._results.close()
        return status


def serve() -> None:
    """Do the work that comes through stdin until that ends: the program of a reader."""
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may be written among the results
    gc.set_threshold(200_000)  # as in the stage's process
    block_optional_imports()
    import flows.stages.convert.entries  # noqa: F401  while the stage's process imports, too

    with suppress(EOFError, BrokenPipeError):
        while True:
            work, item = pickle.load(sys.stdin.buffer)  # noqa: S301  from our own process
            try:
                answer = True, work(item)
            except Exception as error:  # raised again where the result is taken
                answer = False, error
            pickle.dump(answer, results, pickle.HIGHEST_PROTOCOL)
            results.flush()
    os._exit(0)  # there is nothing to tidy up


def processors() -> int:
    """Return the number of processors that this process may use: by its affinity and its cgroup's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.floor(min(count, _quota())))


def idle_processors() -> int:
    """Return for how many readers there are processors now: on a busy host, two are slower than one.

    The kernel reports how many threads are running or runnable; the least of a few samples counts.
    """
    others = 0
    with suppress(OSError):  # elsewhere than on Linux, all count as idle
        others = min(_runnable() for _ in range(_LOOKS)) - 1  # without this one
    return max(1, min(processors(), (os.cpu_count() or 1) - others))


def _runnable() -> int:
    time.sleep(_BETWEEN_LOOKS)
    return int(_LOAD.read_text().split()[3].partition("/")[0])


def _quota() -> float:
    """Return the number of processors whose time the cgroups of this process get, by version 2."""
    quotas = [math.inf]
    with suppress(OSError):
        group = _CGROUPS / _OWN_CGROUP.read_text().partition("0::/")[2].strip("/\n")
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):  # no such file, or "max" for no quota
                most, period = map(int, (folder / "cpu.max").read_text().split())
                quotas.append(most / period)
    return min(quotas)


def _widen(pipe: int) -> None:
    with suppress(OSError, ImportError):  # a smaller pipe is only slower
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
