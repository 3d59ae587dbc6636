"""The contract of every stage process, built-in or the operator's own.

A stage is called with an input directory and the path of an output directory that does not exist yet. It
writes into a temporary sibling of the output and renames it when complete, so after a kill the output is
complete or absent. Its last line on stdout is one JSON object, :class:`Result`, which is also written to
``manifest.json`` in the output. Exit status 0 means done; the statuses in :data:`PERMANENT` are not retried,
all others are.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from flows.stages.runner.host_identity import boot_id, machine

MANIFEST = "manifest.json"
#: Exit statuses that are not retried (sysexits.h: usage, bad data, configuration; sh: not executable, not
#: found).
PERMANENT = frozenset({64, 65, 78, 126, 127})


class FileOutcome(msgspec.Struct, omit_defaults=True):
    """The outcome of one source file in one stage.

    ``name`` is the entry's name in the stage's input (``000042-chats.zip``). ``status`` is ``ok``,
    ``partial`` (``reason`` says what was left out) or ``quarantined`` (nothing could be used).
    """

    name: str
    status: str = "ok"
    reason: str | None = None
    counts: dict[str, int] = {}


class Result(msgspec.Struct, omit_defaults=True):
    """The result line of a stage: outcomes of its source files and totals (``bytes_in``, ``messages``, …).

    ``machine`` and its ``boot`` id name where and when it was written; empty if the system does not say.
    """

    stage: str
    files: list[FileOutcome] = []
    counts: dict[str, int] = {}
    boot: str = ""
    machine: str = ""


def read_result(output: Path) -> Result | None:
    """Return the result of the complete output at ``output``; None if there is none.

    An output from before this machine's last boot counts as absent: after a power failure a manifest may
    exist although other files never reached the disk. Running the stage again costs less than syncing every
    file. The output of another machine is in a shared folder, whose server has received the files when they
    were closed."""
    try:
        result = msgspec.json.decode((output / MANIFEST).read_bytes(), type=Result)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
    return result if result.boot == boot_id() or result.machine not in ("", machine()) else None


def entry_name(source_id: int, name: str) -> str:
    """Return the name of a source file within a batch: ledger id, dash, last 200 bytes of the file's name."""
    safe = name.replace("/", "_").encode("utf-8", "replace")[-200:].decode("utf-8", "ignore")
    return f"{source_id:06d}-{safe}"


def entry_id(entry: str) -> int | None:
    """Return the ledger id in an entry name; None if :func:`entry_name` did not make the name."""
    head = entry.partition("-")[0]
    return int(head) if head.isascii() and head.isdigit() else None


@contextmanager
def new_output(output: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``output``; rename it to ``output`` on success, remove it on an error."""
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, mode=0o700)
    try:
        yield partial
        shutil.rmtree(output, ignore_errors=True)
        partial.rename(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_result(directory: Path, result: Result) -> None:
    """Write the manifest into the output directory, which is still a temporary one."""
    result.boot, result.machine = boot_id(), machine()
    with (directory / MANIFEST).open("wb") as file:
        file.write(msgspec.json.encode(result))
        if not result.boot:  # otherwise read_result() ignores it after a power failure
            file.flush()
            os.fsync(file.fileno())


def print_result(result: Result) -> None:
    """Print the result line, the last line of a stage's stdout."""
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    sys.stdout.flush()
