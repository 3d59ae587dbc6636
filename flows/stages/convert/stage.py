"""Convert: read the exports of a batch into rows, as Parquet.

``python -m flows.stages.convert INPUT OUTPUT [--html-zone=ZONE] [--readers=N]`` obeys
:mod:`flows.stages.runner.contract`. ZONE is the IANA name of the time zone in which HTML exports were made, N
the number of processes that read (by default one per idle processor; the rows do not depend on it). INPUT is
extract's output: one directory per source file (or a bare JSON or HTML file; a manifest is not needed).
OUTPUT has ``chats.parquet`` and ``messages.parquet`` in the schemas of :mod:`flows.exports.columns`. Per
source file the manifest counts ``chats``, ``messages`` and ``bytes_in``. What extract kept is read, or named
in the file's reason: :mod:`flows.stages.convert.members` checks that for each source file.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.stages.convert.members import not_written
from flows.stages.convert.readers import ReaderCrashed, Readers, idle_processors
from flows.stages.runner.contract import (
    MANIFEST,
    FileOutcome,
    Result,
    entry_id,
    new_output,
    print_result,
    read_result,
    write_result,
)
from flows.stages.runner.crash_history import is_suspect, process_or_quarantine

if TYPE_CHECKING:
    from concurrent.futures import Future

    from pyarrow import RecordBatch

    from flows.exports.html_batch import HtmlBatch
    from flows.exports.reading import Map
    from flows.stages.convert.entries import Read
    from flows.stages.convert.parquet import RowWriter

_ZONE, _READERS = "--html-zone=", "--readers="
_USAGE, _TEMPORARY = 64, 75  # sysexits.h
_BARE = {".json", ".html", ".htm"}
#: Bytes of exports for which one more reader is started, which takes as long as reading 3 MB.
_WORTH_READER = 4 << 20


def main(argv: Sequence[str]) -> int:
    """Run the stage as a process; return its exit status."""
    options = {option.partition("=")[0] + "=": option.partition("=")[2] for option in argv[2:]}
    if len(argv) < 2 or options.keys() - {_ZONE, _READERS}:
        sys.stderr.write(f"usage: python -m flows.stages.convert INPUT OUTPUT [{_ZONE}ZONE] [{_READERS}N]\n")
        return _USAGE
    source, output = map(Path, argv[:2])
    os.umask(0o077)
    # Messages have no reference cycles; searching thousands of them for cycles takes a tenth of the time.
    gc.set_threshold(200_000)
    try:
        readers = int(options.get(_READERS, 0))
        result = read_result(output) or convert(source, output, options.get(_ZONE), readers)
    except OSError as error:  # a full or failing disk, not a source file
        sys.stderr.write(f"cannot convert: {error}\n")
        return _TEMPORARY
    except ValueError as error:
        sys.stderr.write(f"wrong option: {error}\n")
        return _USAGE
    print_result(result)
    return 0


def convert(source: Path, output: Path, zone: str | None = None, readers: int = 0) -> Result:
    """Convert every source file in ``source`` into the new directory ``output``; return the result.

    ``zone`` is the time zone of HTML exports, ``readers`` the number of processes (0: one per idle
    processor). Raises ValueError if there is no such zone, OSError if the machine fails (a full disk, for
    example), never because of a source file's content.
    """
    entries = {entry: _size(entry) for entry in _entries(source)}
    with new_output(output) as partial:
        extracted = read_result(source)
        outcomes = {file.name: file for file in extracted.files} if extracted else {}
        result = Result("convert", not_written(source, extracted))
        worth = 1 + sum(entries.values()) // _WORTH_READER
        with Readers(readers or (min(idle_processors(), worth) if worth > 1 else 1)) as pool:
            result.files += _convert(entries, outcomes, output, partial, zone, pool)
        for file in result.files:
            for name, number in file.counts.items():
                result.counts[name] = result.counts.get(name, 0) + number
        write_result(partial, result)
    return result


def _convert(
    entries: dict[Path, int],
    extracted: dict[str, FileOutcome],
    output: Path,
    partial: Path,
    zone: str | None,
    readers: Readers,
) -> Iterator[FileOutcome]:
    """Write the rows of the entries, of these sizes, into ``partial``; yield the outcome of each."""
    from flows.exports.html_batch import HtmlBatch  # late: the import of Arrow dominates the start
    from flows.stages.convert.entries import SMALL, read_whole
    from flows.stages.convert.parquet import RowWriter

    with RowWriter(partial) as writer:
        html = HtmlBatch(zone, entries)
        order = list(html.in_order())
        small = [
            entry
            for entry in order
            if readers.count > 1
            and entries[entry] <= SMALL
            and not html.is_linked(entry)
            and not is_suspect(output, entry.name)
        ]
        items = ((entry, extracted.get(entry.name)) for entry in small)
        read = readers.futures(functools.partial(read_whole, zone), items)
        for entry in order:
            work: Callable[[], FileOutcome]
            if entry in small:
                work = functools.partial(_write_whole, entry, next(read), writer)
            else:
                known = extracted.get(entry.name)
                work = functools.partial(_convert_file, entry, writer, html, known, readers.map)
            yield process_or_quarantine(output, entry.name, work)


def _convert_file(
    entry: Path, writer: RowWriter, html: HtmlBatch, extracted: FileOutcome | None, each: Map
) -> FileOutcome:
    """Read an entry here, with long exports in pieces by ``each``, and write its rows as they come."""
    from flows.stages.convert.entries import read_entry

    reading = read_entry(entry, html, extracted, each)
    while True:
        try:
            writer.messages(next(reading))
        except StopIteration as end:
            return _written(end.value, writer)


def _write_whole(entry: Path, read: Future[tuple[Read, list[RecordBatch]]], writer: RowWriter) -> FileOutcome:
    """Write the rows of an entry that is read as one piece."""
    try:
        found, rows = read.result()
    except ReaderCrashed as error:
        return FileOutcome(entry.name, "quarantined", str(error))
    for batch in rows:
        writer.messages(batch)
    return _written(found, writer)


def _written(read: Read, writer: RowWriter) -> FileOutcome:
    if read.chats is not None:
        writer.chats(read.chats)
    read.outcome.status = sys.intern(read.outcome.status)  # msgspec omits a default only if it is the same
    return read.outcome


def _size(entry: Path) -> int:
    """Return the number of bytes of what may be exports in an entry."""
    files = [Path(folder, name) for folder, _, names in os.walk(entry) for name in names] or [entry]
    return sum(file.stat().st_size for file in files if file == entry or file.suffix.lower() in _BARE)


def _entries(source: Path) -> Iterator[Path]:
    """Yield the entries of extract's output, except those of source files that extract quarantined."""
    extracted = read_result(source)
    files = extracted.files if extracted else []
    ignored = {MANIFEST, *(file.name for file in files if file.status == "quarantined")}
    for entry in sorted(source.iterdir()):
        if entry.name in ignored or entry.name.startswith("."):
            continue
        if entry.is_dir() or entry.suffix.lower() in _BARE or entry_id(entry.name) is not None:
            yield entry
