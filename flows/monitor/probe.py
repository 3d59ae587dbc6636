"""Questions to what may be dead, answered in bounded time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Answer(NamedTuple, Generic[T]):
    """What came of a question, or the error it ended with, and the seconds it took."""

    value: T | None
    error: Exception | None
    seconds: float


class Probe(Generic[T]):
    """One question. While it hangs nobody asks it a second time; who asks meanwhile waits for that answer."""

    def __init__(self, question: Callable[[], T]) -> None:
        """Ask nothing yet."""
        self._question = question
        self._lock = threading.Lock()
        self._answer: Future[Answer[T]] | None = None

    def ask(self) -> Future[Answer[T]]:
        """Return the answer to come."""
        with self._lock:
            if self._answer is None or self._answer.done():
                self._answer = Future()
                # A daemon: a question that never ends must not keep the process from ending.
                threading.Thread(target=self._run, args=(self._answer,), daemon=True).start()
            return self._answer

    def _run(self, answer: Future[Answer[T]]) -> None:
        began = time.monotonic()
        try:
            value, error = self._question(), None
        except Exception as problem:
            value, error = None, problem
        answer.set_result(Answer(value, error, time.monotonic() - began))


def ask_all(probes: Mapping[str, Probe[T]], timeout: float) -> dict[str, Answer[T]]:
    """Ask everything at once; what has not answered within ``timeout`` seconds ended with a TimeoutError."""
    answers = {name: probe.ask() for name, probe in probes.items()}
    wait(answers.values(), timeout)
    late = Answer[T](None, TimeoutError(f"no answer within {timeout:g} s"), timeout)
    return {name: answer.result() if answer.done() else late for name, answer in answers.items()}
