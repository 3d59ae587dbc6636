"""A request: which rows of which relation, in which format. It imports no slow package."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from flows.errors import ExportFailed


class What(StrEnum):
    """A relation."""

    messages = "messages"
    chats = "chats"
    senders = "senders"
    stage_runs = "stage-runs"
    timings = "timings"


#: Relations whose rows belong to chats.
OF_CHATS = (What.messages, What.chats, What.senders)


class Choice(NamedTuple):
    """Which rows: keys of chats, the earliest and the first excluded time; None: no condition.

    Times are those of sending; for stage runs and timings, of queueing.
    """

    chats: Sequence[str] | None = None
    since: datetime | None = None
    until: datetime | None = None


class Format(StrEnum):
    """A format of an export."""

    parquet = "parquet"
    csv = "csv"
    jsonl = "jsonl"
    sqlite = "sqlite"
    duckdb = "duckdb"
    xlsx = "xlsx"


#: Formats that need no file with random access.
STREAMS = (Format.csv, Format.jsonl)
_SUFFIXES = {f".{each}": each for each in Format} | {
    ".db": Format.sqlite,
    ".sqlite3": Format.sqlite,
    ".ndjson": Format.jsonl,
}


def format_of(path: Path) -> Format:
    """Return the format that the suffix names. Raises ExportFailed."""
    try:
        return _SUFFIXES[path.suffix.lower()]
    except KeyError:
        known = ", ".join(_SUFFIXES)
        raise ExportFailed(f"{path}: the suffix names no format; use one of {known}, or --format") from None


class Order(NamedTuple):
    """The request for an export; the last two options are for CSV only.

    ``bom``: with the mark by which Excel recognises UTF-8. ``escape_formulas``: texts that a spreadsheet
    would take for formulas get an apostrophe before them.
    """

    what: What
    choice: Choice
    format: Format
    bom: bool = False
    escape_formulas: bool = False
