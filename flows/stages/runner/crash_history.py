"""Quarantine of source files that crash or hang a stage's process twice, so that their batch continues.

A reader quarantines invalid files itself. This module is for files on which a library crashes or never
returns. The process writes the name of its current source file next to its output. When the process crashes
or times out, the flow records a crash of that file, and the next process quarantines files with two crashes.
If the process is killed from outside, with its flow or by the OOM killer, no crash is recorded.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import msgspec

from flows.stages.runner.contract import FileOutcome

#: Signals that a fault of the program itself raises.
CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL})
#: Crashes after which a source file is quarantined.
MAX_CRASHES = 2


def process_or_quarantine(output: Path, name: str, work: Callable[[], FileOutcome]) -> FileOutcome:
    """Return the outcome of ``work`` on the source file ``name``; quarantine the file after two crashes."""
    errors = _crashes(output).get(name, [])
    if len(errors) >= MAX_CRASHES:
        reason = (
            f"the {output.name} program crashed or timed out on it {len(errors)} times;"
            f" last error: {errors[-1]}. If the file is only large, raise the stage's timeout;"
            f" then run its batch again with `tdp backfill BATCH --from {output.name}`"
        )
        return FileOutcome(name, "quarantined", reason)
    try:
        _current_file(output).write_text(name)
        return work()
    finally:
        _current_file(output).unlink(missing_ok=True)


def is_suspect(output: Path, name: str) -> bool:
    """Return whether :func:`process_or_quarantine` quarantines the source file ``name``."""
    return len(_crashes(output).get(name, [])) >= MAX_CRASHES


def clear_current_file(output: Path) -> None:
    """Remove the name of the last process's source file: a new process of this stage is about to start."""
    _current_file(output).unlink(missing_ok=True)


def record_crash(output: Path, error: str) -> None:
    """Record a crash of the source file on which the stage's process has just ended, if it named one."""
    try:
        name = _current_file(output).read_text()
    except FileNotFoundError:
        return
    crashes = _crashes(output)
    crashes.setdefault(name, []).append(" ".join(error.split())[:500])
    _history(output).write_bytes(msgspec.json.encode(crashes))


def forget_crashes(output: Path) -> None:
    """Remove the crash history: an operator runs the stage again."""
    _history(output).unlink(missing_ok=True)


def _crashes(output: Path) -> dict[str, list[str]]:
    """Return the errors of all recorded crashes by source file."""
    try:
        return msgspec.json.decode(_history(output).read_bytes(), type=dict[str, list[str]])
    except (FileNotFoundError, msgspec.DecodeError):  # truncated by a power failure
        return {}


def _current_file(output: Path) -> Path:
    return output.with_name(f".{output.name}.at")


def _history(output: Path) -> Path:
    return output.with_name(f".{output.name}.suspects")
