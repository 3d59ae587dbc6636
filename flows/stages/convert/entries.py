"""Read the exports in one entry of extract's output: one source file."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from flows.exports.discover import Export
from flows.exports.formats import read_export
from flows.exports.html_batch import HtmlBatch
from flows.exports.reading import Map, Reading
from flows.exports.zones import Clock
from flows.stages.convert.members import not_read
from flows.stages.convert.readers import ReaderCrashed
from flows.stages.runner.contract import FileOutcome

#: Bytes of an export, or of all exports of an entry, that are read as one piece; longer ones are cut.
SMALL = 8 << 20
_NOTHING = (
    "no Telegram export in it: neither result.json nor messages.html;"
    " export again from Telegram Desktop and pack the whole folder"
)


class Read(NamedTuple):
    """The result of reading an entry: its outcome and its chats (None if it is quarantined)."""

    outcome: FileOutcome
    chats: pa.RecordBatch | None = None


def read_whole(zone: str | None, item: tuple[Path, FileOutcome | None]) -> tuple[Read, list[pa.RecordBatch]]:
    """Read an entry that belongs to no other, in a reader process; return the result, and its rows.

    ``item`` is the entry and extract's outcome of it, if it is known.
    """
    entry, extracted = item
    rows: list[pa.RecordBatch] = []
    reading = read_entry(entry, HtmlBatch(zone, [entry]), extracted)
    while True:
        try:
            rows.append(next(reading))
        except StopIteration as end:
            return end.value, rows


def read_entry(
    entry: Path, html: HtmlBatch, extracted: FileOutcome | None, each: Map = map
) -> Generator[pa.RecordBatch, None, Read]:
    """Yield the messages of an entry; return the result. Raises OSError if the machine fails."""
    reading = Reading(entry.name)
    exports = html.exports(entry)
    parts = [part for export in exports for part in export.parts]
    left_out = not_read(entry, set(parts), extracted.counts.get("members") if extracted else None)
    if not exports:
        return Read(FileOutcome(entry.name, "quarantined", "; ".join(filter(None, (_NOTHING, left_out)))))
    yield from _rows_of(exports, entry, reading, html, each)
    if left_out:
        reading.problems.insert(0, left_out)  # only a few problems are shown
    size = sum(part.stat().st_size for part in parts)
    if reading.reason and not reading.messages:
        return Read(FileOutcome(entry.name, "quarantined", reading.reason, {"bytes_in": size}))
    counts = {"bytes_in": size, "chats": len(reading.chats), "messages": reading.messages}
    outcome = FileOutcome(entry.name, "partial" if reading.reason else "ok", reading.reason, counts)
    return Read(outcome, reading.chat_rows(damaged=bool(extracted and extracted.status == "partial")))


def _rows_of(
    exports: list[Export], entry: Path, reading: Reading, html: HtmlBatch, each: Map
) -> Iterator[pa.RecordBatch]:
    """Yield the messages of exports of one entry: small ones are read whole by ``each``, others in pieces."""
    small = deque(export for export in exports if html.stands_alone(export) and _size(export) <= SMALL)
    work = partial(_read_small, html.clock, entry.name)
    read = each(work, tuple(small))
    for export in exports:
        found = Reading(entry.name)
        if small and export == small[0]:
            small.popleft()
            try:
                found, rows = next(read)
                yield from rows
            except ReaderCrashed as error:
                found.problems.append(str(error))
                read = each(work, tuple(small))
        else:
            yield from _rows(export, found, html, each)
        reading.add(found, str(export.parts[0].relative_to(entry)) if len(exports) > 1 else "")


def _read_small(clock: Clock, source: str, export: Export) -> tuple[Reading, list[pa.RecordBatch]]:
    reading, alone = Reading(source), HtmlBatch()
    alone.clock = clock
    return reading, list(_rows(export, reading, alone, map))


def _size(export: Export) -> int:
    return sum(part.stat().st_size for part in export.parts)


def _rows(export: Export, reading: Reading, html: HtmlBatch, each: Map) -> Iterator[pa.RecordBatch]:
    try:
        yield from read_export(export, reading, html, each)
    except OSError:
        raise
    except ReaderCrashed as error:
        reading.problems.append(str(error))
    except Exception as error:  # an unexpected error costs neither other files nor the rows so far
        reading.problems.append(f"reading failed, please report this: {type(error).__name__}: {error}")
