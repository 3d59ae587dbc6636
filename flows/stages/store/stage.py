"""Store: load the Parquet files of convert into the tables ``chats`` and ``messages``.

    TDP_DATABASE_URL=postgresql://… python -m flows.stages.store INPUT OUTPUT

INPUT is convert's output. OUTPUT has only the manifest: ``chats``, ``messages``, ``rows_new``,
``rows_changed`` and ``rows_same`` per source file, and their totals. A source file with a row that PostgreSQL
does not accept is quarantined, and the others are stored. The URL is passed in the environment, because every
user of the host can read a command line.
"""

from __future__ import annotations

import errno
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.errors import BadInput
from flows.stages.runner.contract import (
    FileOutcome,
    Result,
    entry_id,
    new_output,
    print_result,
    read_result,
    write_result,
)

USAGE, DATA, RETRY, CONFIG = 64, 65, 75, 78  # sysexits.h


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    """Run the stage and return its exit status.

    0: done. 64: wrong usage. 65: INPUT does not match :mod:`flows.exports.columns`. 75, to be retried: the
    database is unavailable or ended the session, or an input/output error (a full disk, an unreachable
    share). 78: no URL, or a database without the tables.
    """
    if len(argv) != 2:
        return _fail(USAGE, "usage: python -m flows.stages.store INPUT OUTPUT")
    source, output = map(Path, argv)
    if (done := read_result(output)) is not None:
        print_result(done)
        return 0
    if (converted := read_result(source)) is None:
        return _fail(USAGE, f"{source} is not a complete output of convert: it has no valid manifest")
    if "TDP_DATABASE_URL" not in env:
        return _fail(CONFIG, "TDP_DATABASE_URL is not set: set it to the URL of the database")
    return _store_into(output, env["TDP_DATABASE_URL"], source, converted)


def _store_into(output: Path, url: str, source: Path, converted: Result) -> int:
    # Late, because the imports of psycopg2 and Arrow dominate the start.
    import psycopg2
    import pyarrow as pa

    from flows.stages.store.refused import concerns_row

    try:
        result = store(url, source, converted)
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        if concerns_row(error):
            return _fail(DATA, f"{source} has rows that the database does not accept: {_line(error, url)}")
        return _fail(RETRY, f"the database is unavailable or ended the session: {_line(error, url)}")
    except psycopg2.ProgrammingError as error:
        return _fail(CONFIG, f"the database is not set up, run `tdp up`: {_line(error, url)}")
    except (psycopg2.DataError, psycopg2.IntegrityError, pa.ArrowException, BadInput, OSError) as error:
        # Arrow's OSErrors about invalid content have no errno.
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
            return _fail(RETRY, f"input/output error: {_line(error, url)}")
        return _fail(DATA, f"{source} has invalid content: {_line(error, url)}")
    with new_output(output) as directory:
        write_result(directory, result)
    print_result(result)
    return 0


def store(url: str, source: Path, converted: Result) -> Result:
    """Load ``source``, the output of convert, whose manifest is ``converted``. Raises psycopg2.Error."""
    from flows.stages.store.refused import load_accepted

    sources = [source_id for file in converted.files if (source_id := entry_id(file.name))]
    loaded, chats, reasons = load_accepted(url, source, sources)
    chats_of = Counter(chat["source"] for chat in chats)
    messages_of: Counter[str] = Counter()
    for chat in chats:
        messages_of[chat["source"]] += chat["messages"]

    def counts(name: str) -> dict[str, int]:
        read = {"chats": chats_of[name], "messages": messages_of[name]}
        return read | loaded.by_source.get(entry_id(name) or 0, {})

    files = [
        FileOutcome(file.name, "quarantined", reasons[file.name])
        if file.name in reasons
        else FileOutcome(file.name, counts=counts(file.name))
        for file in converted.files
        if file.status != "quarantined"
    ]
    totals = {"chats": len(chats), "messages": messages_of.total(), **loaded.counts}
    return Result("store", files, totals)


def _line(error: Exception, url: str) -> str:
    """Return the error in one line without the URL, which libpq repeats if it cannot parse it."""
    return " ".join(str(error).replace(url, "TDP_DATABASE_URL").split())


def _fail(status: int, message: str) -> int:
    sys.stderr.write(f"store: {message}\n")
    return status
