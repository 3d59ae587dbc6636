"""What every stage process obeys, ours and the operator's own.

A stage is called with an input directory and the path of an output directory that does not exist yet.
It writes into a temporary sibling and renames it when complete, so after a kill there is a whole output or
none. Its last line on stdout is one JSON object, :class:`Result`, which also stands in ``manifest.json`` of
the output. Exit status 0 means done, :data:`PERMANENT` ones are never tried again, all others may be.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

MANIFEST = "manifest.json"
#: Exit statuses that no retry can mend (sysexits.h: usage, bad data, configuration; sh: not executable, not
#: found).
PERMANENT = frozenset({64, 65, 78, 126, 127})


class FileOutcome(msgspec.Struct, omit_defaults=True):
    """What became of one source file in one stage.

    ``name`` is the entry's name in the stage's input (``000042-chats.zip``). ``status`` is ``ok``,
    ``partial`` (something was left out; ``reason`` says what) or ``quarantined`` (nothing could be used).
    """

    name: str
    status: str = "ok"
    reason: str | None = None
    counts: dict[str, int] = {}


class Result(msgspec.Struct, omit_defaults=True):
    """The result line of a stage: per-file outcomes and totals (``bytes_in``, ``messages``, …)."""

    stage: str
    files: list[FileOutcome] = []
    counts: dict[str, int] = {}
    boot: str = ""


def read_result(output: Path) -> Result | None:
    """Return the result of the complete output at ``output``; None if there is none.

    What was written before the machine's last start does not count: after a power cut a manifest can stand
    beside files whose content never reached the disk. The stage is run again instead of syncing every file.
    """
    try:
        result = msgspec.json.decode((output / MANIFEST).read_bytes(), type=Result)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
    return result if result.boot == _boot_id() else None


def entry_name(source_id: int, name: str) -> str:
    """Return a source file's name inside a batch: its ledger id, a dash, the last 200 bytes of its name."""
    safe = name.replace("/", "_").encode("utf-8", "replace")[-200:].decode("utf-8", "ignore")
    return f"{source_id:06d}-{safe}"


def entry_id(entry: str) -> int | None:
    """Return the ledger id of a source file from its entry name; None if the name is not one of ours."""
    head = entry.partition("-")[0]
    return int(head) if head.isascii() and head.isdigit() else None


@contextmanager
def new_output(output: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``output``; on success rename it into place, else remove it."""
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


def _boot_id() -> str:
    """Return what names the time since the machine's last start; empty where the kernel does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def write_result(directory: Path, result: Result) -> None:
    """Write the manifest into the (still temporary) output directory."""
    result.boot = _boot_id()
    with (directory / MANIFEST).open("wb") as file:
        file.write(msgspec.json.encode(result))
        if not result.boot:  # else a power cut ends its validity anyhow
            file.flush()
            os.fsync(file.fileno())


def print_result(result: Result) -> None:
    """Print the result line that ends a stage's stdout."""
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    sys.stdout.flush()
