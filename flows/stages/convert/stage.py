"""Convert: read the exports of a batch into rows, as Parquet.

``python -m flows.stages.convert INPUT OUTPUT [--html-zone=ZONE]`` obeys :mod:`flows.stages.runner.contract`.
ZONE is the IANA name of the time zone in which HTML exports were made. INPUT is extract's output: one
directory per source file (or a bare JSON or HTML file; a manifest is not needed). OUTPUT has
``chats.parquet`` and ``messages.parquet`` in the schemas of :mod:`flows.exports.columns`. Per source file the
manifest counts ``chats``, ``messages`` and ``bytes_in``. What extract kept is read, or named in the file's
reason: :mod:`flows.stages.convert.members` checks that for each source file.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.exports.discover import Export
from flows.exports.parallel import Processors
from flows.stages.convert.members import not_read, not_written
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
from flows.stages.runner.crash_history import process_or_quarantine

if TYPE_CHECKING:
    from flows.exports.html_batch import HtmlBatch
    from flows.exports.reading import Reading
    from flows.stages.convert.parquet import RowWriter

_ZONE = "--html-zone="
_USAGE, _TEMPORARY = 64, 75  # sysexits.h
_BARE = {".json", ".html", ".htm"}
_NOTHING = (
    "no Telegram export in it: neither result.json nor messages.html;"
    " export again from Telegram Desktop and pack the whole folder"
)


def main(argv: Sequence[str]) -> int:
    """Run the stage as a process; return its exit status."""
    zone = next((option.removeprefix(_ZONE) for option in argv[2:] if option.startswith(_ZONE)), None)
    if len(argv) != (2 if zone is None else 3):
        sys.stderr.write(f"usage: python -m flows.stages.convert INPUT OUTPUT [{_ZONE}ZONE]\n")
        return _USAGE
    source, output = map(Path, argv[:2])
    os.umask(0o077)
    # Messages have no reference cycles; searching thousands of them for cycles takes a tenth of the time.
    gc.set_threshold(200_000)
    try:
        result = read_result(output) or convert(source, output, zone)
    except OSError as error:  # a full or failing disk, not a source file
        sys.stderr.write(f"cannot convert: {error}\n")
        return _TEMPORARY
    except ValueError as error:  # the zone
        sys.stderr.write(f"{_ZONE}: {error}\n")
        return _USAGE
    print_result(result)
    return 0


def convert(source: Path, output: Path, zone: str | None = None) -> Result:
    """Convert every source file in ``source`` into the new directory ``output``; return the result.

    ``zone`` is the time zone of HTML exports. Raises ValueError if there is no such zone, OSError if the
    machine fails (a full disk, for example), never because of a source file's content.
    """
    from flows.exports.html_batch import HtmlBatch  # late: the import of Arrow dominates the start
    from flows.stages.convert.parquet import RowWriter

    with new_output(output) as partial:
        extracted = read_result(source)
        kept = {file.name: file for file in extracted.files} if extracted else {}
        result = Result("convert", not_written(source, extracted))
        with RowWriter(partial) as writer:
            processors = Processors(writer.stop_thread)
            html = HtmlBatch(zone, _entries(source))
            for entry in html.in_order():
                work = functools.partial(_convert_file, entry, writer, processors, html, kept.get(entry.name))
                outcome = process_or_quarantine(output, entry.name, work)
                result.files.append(outcome)
                for name, number in outcome.counts.items():
                    result.counts[name] = result.counts.get(name, 0) + number
        write_result(partial, result)
    return result


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


def _convert_file(
    entry: Path, writer: RowWriter, processors: Processors, html: HtmlBatch, extracted: FileOutcome | None
) -> FileOutcome:
    from flows.exports.reading import Reading

    reading = Reading(entry.name)
    exports = html.exports(entry)
    parts = [part for export in exports for part in export.parts]
    left_out = not_read(entry, set(parts), extracted.counts.get("members") if extracted else None)
    if not exports:
        return FileOutcome(entry.name, "quarantined", "; ".join(filter(None, (_NOTHING, left_out))))
    for export in exports:
        known = len(reading.problems)
        _read(export, reading, writer, processors, html)
        if len(exports) > 1:
            name = export.parts[0].relative_to(entry)
            reading.problems[known:] = [f"{name}: {problem}" for problem in reading.problems[known:]]
    if left_out:
        reading.problems.insert(0, left_out)  # only a few problems are shown
    size = sum(part.stat().st_size for part in parts)
    if reading.reason and not reading.messages:
        return FileOutcome(entry.name, "quarantined", reading.reason, {"bytes_in": size})
    writer.chats(reading.chat_rows(damaged=bool(extracted and extracted.status == "partial")))
    counts = {"bytes_in": size, "chats": len(reading.chats), "messages": reading.messages}
    return FileOutcome(entry.name, "partial" if reading.reason else "ok", reading.reason, counts)


def _read(
    export: Export, reading: Reading, writer: RowWriter, processors: Processors, html: HtmlBatch
) -> None:
    from flows.exports.formats import read_export

    batches = read_export(export, reading, processors, html)
    while True:
        try:
            batch = next(batches, None)
        except OSError:
            raise
        except Exception as error:  # an unexpected error costs neither other files nor the rows so far
            reading.problems.append(f"reading failed, please report this: {type(error).__name__}: {error}")
            return
        if batch is None:
            return
        writer.messages(batch)
