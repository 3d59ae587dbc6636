"""Convert: the exports of a batch to rows, as Parquet.

``python -m flows.stages.convert INPUT OUTPUT`` obeys :mod:`flows.stages.runner.contract`. INPUT is extract's
output: one directory per source file (or a bare JSON or HTML file; a manifest is not needed). OUTPUT has
``chats.parquet`` and ``messages.parquet`` in the schemas of :mod:`flows.exports.columns`. Per source file the
manifest counts ``chats``, ``messages`` and ``bytes_in``.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.exports.discover import Export, discover
from flows.exports.parallel import Processors
from flows.stages.runner.contract import (
    MANIFEST,
    FileOutcome,
    Result,
    new_output,
    print_result,
    read_result,
    write_result,
)
from flows.stages.runner.crash_history import guarded

if TYPE_CHECKING:
    from flows.exports.reading import Reading
    from flows.stages.convert.parquet import RowWriter

_USAGE, _TEMPORARY = 64, 75  # sysexits.h
_BARE = {".json", ".html", ".htm"}
_NOTHING = (
    "no Telegram export in it: neither result.json nor messages.html;"
    " export again from Telegram Desktop and pack the whole folder"
)


def main(argv: Sequence[str]) -> int:
    """Run the stage as a process; return its exit status."""
    if len(argv) != 2:
        sys.stderr.write("usage: python -m flows.stages.convert INPUT OUTPUT\n")
        return _USAGE
    source, output = map(Path, argv)
    os.umask(0o077)
    # Messages come by the thousand and hold no cycles; looking for some among them takes a tenth of the time.
    gc.set_threshold(200_000)
    try:
        result = read_result(output) or convert(source, output)
    except OSError as error:  # a full or failing disk is no fault of any source file
        sys.stderr.write(f"cannot convert: {error}\n")
        return _TEMPORARY
    print_result(result)
    return 0


def convert(source: Path, output: Path) -> Result:
    """Convert every source file in ``source`` into the new directory ``output``; return the result.

    Raises OSError if the machine fails (a full disk, for one), never for what is in a source file.
    """
    from flows.stages.convert.parquet import RowWriter  # Arrow takes longer to start than all the rest

    with new_output(output) as partial:
        result = Result(stage="convert")
        with RowWriter(partial) as writer:
            processors = Processors(writer.quiet)
            for entry in _entries(source):
                work = functools.partial(_convert_file, entry, writer, processors)
                outcome = guarded(output, entry.name, work)
                result.files.append(outcome)
                for name, number in outcome.counts.items():
                    result.counts[name] = result.counts.get(name, 0) + number
        write_result(partial, result)
    return result


def _entries(source: Path) -> Iterator[Path]:
    """What came out of extract, but for what it says itself never came."""
    extracted = read_result(source)
    refused = {file.name for file in extracted.files if file.status == "quarantined"} if extracted else set()
    for entry in sorted(source.iterdir()):
        if entry.name in refused or entry.name == MANIFEST or entry.name.startswith("."):
            continue
        if entry.is_dir() or entry.suffix.lower() in _BARE:
            yield entry


def _convert_file(entry: Path, writer: RowWriter, processors: Processors) -> FileOutcome:
    from flows.exports.reading import Reading

    reading = Reading(entry.name)
    exports = discover(entry)
    if not exports:
        return FileOutcome(entry.name, "quarantined", _NOTHING)
    for export in exports:
        told = len(reading.problems)
        _read(export, reading, writer, processors)
        if len(exports) > 1:
            name = export.parts[0].relative_to(entry)
            reading.problems[told:] = [f"{name}: {problem}" for problem in reading.problems[told:]]
    size = sum(part.stat().st_size for export in exports for part in export.parts)
    if reading.reason and not reading.messages:
        return FileOutcome(entry.name, "quarantined", reading.reason, {"bytes_in": size})
    writer.chats(reading.chat_rows())
    counts = {"bytes_in": size, "chats": len(reading.chats), "messages": reading.messages}
    return FileOutcome(entry.name, "partial" if reading.reason else "ok", reading.reason, counts)


def _read(export: Export, reading: Reading, writer: RowWriter, processors: Processors) -> None:
    from flows.exports.formats import read_export

    batches = read_export(export, reading, processors)
    while True:
        try:
            batch = next(batches, None)
        except OSError:
            raise
        except Exception as error:  # whatever a file provokes, its neighbours and its rows so far are kept
            reading.problems.append(f"reading it failed, please report: {type(error).__name__}: {error}")
            return
        if batch is None:
            return
        writer.messages(batch)
