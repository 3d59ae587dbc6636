"""Source files with a row that PostgreSQL does not accept: they are left out, and the others are stored.

Convert writes no such rows, as far as is known: see :mod:`flows.exports.columns`. An operator's own program
may write such rows, and each release of PostgreSQL has limits of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import psycopg2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.exports.columns import MESSAGES
from flows.stages.runner.contract import entry_id
from flows.stages.store.joining import Chat
from flows.stages.store.loading import Loaded, load, read_chats

#: Classes of SQLSTATE that are about a row: invalid data, violated constraints, exceeded limits.
_CLASSES = ("22", "23", "54")


def concerns_row(error: BaseException) -> bool:
    """Return whether an error is PostgreSQL's refusal of a row: the same row fails whenever it is loaded."""
    return isinstance(error, psycopg2.Error) and (error.pgcode or "").startswith(_CLASSES)


def load_accepted(
    url: str, directory: Path, sources: Sequence[int]
) -> tuple[Loaded, list[Chat], dict[str, str]]:
    """Load the source files of ``directory`` whose rows PostgreSQL accepts, as :func:`~.loading.load` does.

    Returns what the load did, the chats that were loaded, and the reasons of the source files (entry names)
    that were left out. Rows that earlier stores of such a file have loaded are kept. Raises psycopg2.Error or
    BadInput; nothing is loaded then.
    """
    chats = read_chats(directory)
    try:
        return load(url, directory, chats, sources), chats, {}
    except psycopg2.Error as error:
        if not concerns_row(error):
            raise
        reasons = _refused(url, directory, chats)
        if not reasons:  # the rows are refused only in combination
            raise
    accepted = [chat for chat in chats if chat["source"] not in reasons]
    keep = {source_id for name in reasons if (source_id := entry_id(name))}
    with tempfile.TemporaryDirectory(prefix=".accepted-", dir=directory.parent) as scratch:
        _copy_rows(directory, Path(scratch), list(reasons), chosen=False)
        return load(url, Path(scratch), accepted, sources, keep=keep), accepted, reasons


def _refused(url: str, directory: Path, chats: list[Chat]) -> dict[str, str]:
    """Return the source files that cannot be loaded even alone, with PostgreSQL's reasons."""
    reasons = {}
    for name in dict.fromkeys(chat["source"] for chat in chats):
        own = [chat for chat in chats if chat["source"] == name]
        with tempfile.TemporaryDirectory(prefix=".accepted-", dir=directory.parent) as scratch:
            _copy_rows(directory, Path(scratch), [name], chosen=True)
            try:
                load(url, Path(scratch), own, commit=False)
            except psycopg2.Error as error:
                if not concerns_row(error):
                    raise
                reasons[name] = f"PostgreSQL does not accept one of its rows: {' '.join(str(error).split())}"
    return reasons


def _copy_rows(directory: Path, target: Path, names: list[str], *, chosen: bool) -> None:
    """Copy the message rows of the source files ``names``, or of all others, into ``target``."""
    values = pa.array(names, pa.string())
    with (
        pq.ParquetFile(directory / "messages.parquet") as file,
        pq.ParquetWriter(target / "messages.parquet", MESSAGES, compression="lz4") as writer,
    ):
        for piece in file.iter_batches(columns=MESSAGES.names):
            rows = piece.select(MESSAGES.names).cast(MESSAGES)
            found = pc.is_in(rows["source"], value_set=values)
            writer.write_batch(rows.filter(found if chosen else pc.invert(found)))
