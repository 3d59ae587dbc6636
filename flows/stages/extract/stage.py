"""Extract: unpack the members that convert reads from each source file of a batch.

``python -m flows.stages.extract INPUT OUTPUT [--media]`` obeys :mod:`flows.stages.runner.contract`. In OUTPUT
each source file has a directory with ``result.json``, ``messages*.html`` and the pages that list chats, at
their paths in the archive. Media is listed without unpacking it: one JSON line ``{"entry", "path", "size"}``
per file in ``media.jsonl`` (``size`` in bytes as the archive states it).

Per source file the manifest counts ``bytes_in``, ``bytes_out``, ``members`` (the files written for convert,
without media), ``media`` and ``media_bytes``.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NoReturn

import msgspec

from flows.errors import BadInput
from flows.stages.extract.archives import PART_OF_SEVERAL, Member
from flows.stages.extract.entry import Entry
from flows.stages.extract.limits import Budget, Limits, TooLarge
from flows.stages.extract.places import may_be_part
from flows.stages.extract.unpacking import Unpacking
from flows.stages.runner.contract import (
    FileOutcome,
    Result,
    new_output,
    print_result,
    read_result,
    write_result,
)
from flows.stages.runner.crash_history import process_or_quarantine

MEDIA_LIST = "media.jsonl"
#: sysexits.h: wrong usage is not retried (contract.PERMANENT), an error of the disk is.
_USAGE, _TEMPORARY = 64, 75
#: Bytes of address space. Readers stay far below it; it bounds errors of libraries.
_MEMORY = 2 << 30


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage as a process; return its exit status."""
    options = _parser().parse_args(argv)
    os.umask(0o077)
    _bound_memory()
    limits = limits_of(options)
    try:
        result = read_result(options.output)
        result = result or extract(options.input, options.output, limits, media=options.media)
    except OSError as error:  # a full or failing disk, not a source file
        sys.stderr.write(f"cannot extract: {error}\n")
        return _TEMPORARY
    print_result(result)
    return 0


def limits_of(options: argparse.Namespace) -> Limits:
    """Return the limits that the stage's options set."""
    return Limits(
        options.max_bytes, options.max_ratio, options.max_entries, options.max_depth, options.max_nesting
    )


def extract(source: Path, output: Path, limits: Limits, *, media: bool = False) -> Result:
    """Extract every source file in ``source`` into the new directory ``output``; return the result.

    Raises OSError if the machine fails (a full disk, for example), never because of a source file's content.
    """
    with new_output(output) as partial:
        result = Result(stage="extract")
        with (partial / MEDIA_LIST).open("wb") as media_list:
            for entry in sorted(source.iterdir()):
                target = partial / entry.name
                work = functools.partial(_extract_file, entry, target, limits, media_list, media=media)
                outcome = process_or_quarantine(output, entry.name, work)
                result.files.append(outcome)
                for name, number in outcome.counts.items():
                    result.counts[name] = result.counts.get(name, 0) + number
        write_result(partial, result)
    return result


def _extract_file(
    source: Path, target: Path, limits: Limits, media_list: IO[bytes], *, media: bool
) -> FileOutcome:
    if not source.is_file():
        folder, missing = "it is a folder: submit a ZIP of it", "the file is missing: submit it again"
        return FileOutcome(source.name, "quarantined", folder if source.is_dir() else missing)
    size = source.stat().st_size
    try:
        unpacking = Unpacking(Entry(target), Budget(size, limits), media=media)
        unpacking.run(source)
        reason = unpacking.reason()
        if unpacking.incomplete and may_be_part(source.name):
            raise BadInput(reason)
    except BadInput as error:
        shutil.rmtree(target, ignore_errors=True)
        return FileOutcome(source.name, "quarantined", _explained(source.name, error), {"bytes_in": size})
    if not media:
        _list_media(media_list, source.name, unpacking.media)
    counts = {
        "bytes_in": size,
        "bytes_out": unpacking.entry.bytes,
        "members": unpacking.exports,
        "media": len(unpacking.media),
        "media_bytes": sum(member.size for member in unpacking.media),
    }
    return FileOutcome(source.name, "partial" if reason else "ok", reason, counts)


def _explained(name: str, error: BadInput) -> str:
    """Return the reason of quarantine; its ``name`` shows whether the file is damaged or a part of a split
    archive."""
    if may_be_part(name) and not isinstance(error, TooLarge) and str(error) != PART_OF_SEVERAL:
        return f"{PART_OF_SEVERAL} (alone: {error})"
    return str(error)


def _list_media(media_list: IO[bytes], entry: str, media: list[Member]) -> None:
    for member in media:
        media_list.write(
            msgspec.json.encode({"entry": entry, "path": member.path, "size": member.size}) + b"\n"
        )


def _bound_memory() -> None:
    """Limit the memory, so that an excessive allocation fails for its source file and not for the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY or soft > _MEMORY:
        with suppress(ValueError, OSError):  # macOS does not enforce the limit
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, hard))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE, f"{self.format_usage()}{message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m flows.stages.extract", description="Extract the source files of a batch."
    )
    default = Limits()
    parser.add_argument("input", type=Path, help="directory with one entry per source file")
    parser.add_argument("output", type=Path, help="directory to make")
    parser.add_argument("--media", action="store_true", help="unpack media too, not only list it")
    parser.add_argument("--max-bytes", type=int, default=default.bytes, help="unpacked bytes per source file")
    parser.add_argument("--max-ratio", type=int, default=default.ratio, help="unpacked to packed bytes")
    parser.add_argument("--max-entries", type=int, default=default.entries, help="members of its archives")
    parser.add_argument("--max-depth", type=int, default=default.depth, help="folders within folders")
    parser.add_argument("--max-nesting", type=int, default=default.nesting, help="archives within archives")
    return parser
