"""Probes: checks of components that may hang, answered within bounded time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Outcome(NamedTuple, Generic[T]):
    """The value that a check returned, or the error that it raised, and its duration in seconds."""

    value: T | None
    error: Exception | None
    seconds: float


class Probe(Generic[T]):
    """One check that runs at most once at a time; callers meanwhile share the outcome of the running one."""

    def __init__(self, check: Callable[[], T]) -> None:
        """Prepare the check without running it."""
        self._check = check
        self._lock = threading.Lock()
        self._outcome: Future[Outcome[T]] | None = None

    def start(self) -> Future[Outcome[T]]:
        """Start the check unless it is running, and return its future outcome."""
        with self._lock:
            if self._outcome is None or self._outcome.done():
                self._outcome = Future()
                # A daemon thread: a check that hangs must not keep the process from exiting.
                threading.Thread(target=self._run, args=(self._outcome,), daemon=True).start()
            return self._outcome

    def _run(self, outcome: Future[Outcome[T]]) -> None:
        began = time.monotonic()
        try:
            value, error = self._check(), None
        except Exception as problem:
            value, error = None, problem
        outcome.set_result(Outcome(value, error, time.monotonic() - began))


def run_all(probes: Mapping[str, Probe[T]], timeout: float) -> dict[str, Outcome[T]]:
    """Run all probes concurrently; one that takes over ``timeout`` seconds has a TimeoutError as outcome."""
    outcomes = {name: probe.start() for name, probe in probes.items()}
    wait(outcomes.values(), timeout)
    late = Outcome[T](None, TimeoutError(f"no response within {timeout:g} s"), timeout)
    return {name: outcome.result() if outcome.done() else late for name, outcome in outcomes.items()}
