"""Source files at which a stage's process ends: one that did so twice is left out, and its batch goes on.

What a reader can refuse, it refuses by itself. This is for what no reader can: a library that crashes on a
file or never comes back from it. The process says which source file it is at; who sees it crash or run out of
time notes that one, and the next process leaves out those noted twice. A process that was killed from
outside, with its flow or for want of memory, notes nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from flows.stages.runner.contract import FileOutcome

#: As often a file may end a process before it is left out.
_TIMES = 2


def guarded(output: Path, name: str, work: Callable[[], FileOutcome]) -> FileOutcome:
    """Do the ``work`` on the source file ``name``, unless that has ended the process of this stage before."""
    errors = _noted(output).get(name, [])
    if len(errors) >= _TIMES:
        reason = (
            f"it ended the {output.name} program {len(errors)} times, the last time so: {errors[-1]}."
            f" If it is only large, raise the stage's time-out; then `tdp backfill` its batch"
            f" `--from {output.name}`"
        )
        return FileOutcome(name, "quarantined", reason)
    try:
        _at(output).write_text(name)
        return work()
    finally:
        _at(output).unlink(missing_ok=True)


def begin(output: Path) -> None:
    """Forget where the last process of this stage ended: another one is about to begin."""
    _at(output).unlink(missing_ok=True)


def suspect(output: Path, error: str) -> None:
    """Note the source file at which the process of this stage has just ended, if it said one."""
    try:
        name = _at(output).read_text()
    except FileNotFoundError:
        return
    noted = _noted(output)
    noted.setdefault(name, []).append(" ".join(error.split())[:500])
    _suspects(output).write_bytes(msgspec.json.encode(noted))


def acquit(output: Path) -> None:
    """Forget all that was noted: somebody wants the stage to try again."""
    _suspects(output).unlink(missing_ok=True)


def _noted(output: Path) -> dict[str, list[str]]:
    try:
        return msgspec.json.decode(_suspects(output).read_bytes(), type=dict[str, list[str]])
    except (FileNotFoundError, msgspec.DecodeError):  # half-written in a power cut
        return {}


def _at(output: Path) -> Path:
    return output.with_name(f".{output.name}.at")


def _suspects(output: Path) -> Path:
    return output.with_name(f".{output.name}.suspects")
