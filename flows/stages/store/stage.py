"""Store: what convert wrote as Parquet into the tables ``chats`` and ``messages``.

    TDP_DATABASE_URL=postgresql://… python -m flows.stages.store INPUT OUTPUT

INPUT is convert's output. OUTPUT gets the manifest: per source file its ``chats`` and ``messages``, in all
``rows_new``, ``rows_changed`` and ``rows_same``. The URL comes by the environment, because everybody can read
a command line.
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

    0: done. 64: wrong usage. 65: INPUT is not what :mod:`flows.exports.columns` describes. 75: the database
    is away or gave up, or the machine could not do it (a full disk, a share that is away): try again. 78: no
    URL, or a database without the tables.
    """
    if len(argv) != 2:
        return _fail(USAGE, "usage: python -m flows.stages.store INPUT OUTPUT")
    source, output = map(Path, argv)
    if (done := read_result(output)) is not None:
        print_result(done)
        return 0
    if (converted := read_result(source)) is None:
        return _fail(USAGE, f"{source} is not the complete output of convert: it has no manifest")
    if "TDP_DATABASE_URL" not in env:
        return _fail(CONFIG, "TDP_DATABASE_URL is not set: the URL of the database to store into")
    return _store_into(output, env["TDP_DATABASE_URL"], source, converted)


def _store_into(output: Path, url: str, source: Path, converted: Result) -> int:
    # Only now, because psycopg2 and Arrow take longer to start than all the rest.
    import psycopg2
    import pyarrow as pa

    try:
        result = store(url, source, converted)
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        return _fail(RETRY, f"the database is away or gave up: {_line(error, url)}")
    except psycopg2.ProgrammingError as error:
        return _fail(CONFIG, f"the database is not set up (`tdp up` does it): {_line(error, url)}")
    except (psycopg2.DataError, psycopg2.IntegrityError, pa.ArrowException, BadInput, OSError) as error:
        # Arrow's OSErrors about content have no number.
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
            return _fail(RETRY, f"the machine could not do it: {_line(error, url)}")
        return _fail(DATA, f"{source} does not hold what it should: {_line(error, url)}")
    with new_output(output) as directory:
        write_result(directory, result)
    print_result(result)
    return 0


def store(url: str, source: Path, converted: Result) -> Result:
    """Load convert's output ``source``, whose manifest is ``converted``. Raises psycopg2.Error."""
    from flows.stages.store.loading import load, read_chats

    chats = read_chats(source)
    sources = [source_id for file in converted.files if (source_id := entry_id(file.name))]
    counts = load(url, source, chats, sources)
    chats_of = Counter(chat["source"] for chat in chats)
    messages_of: Counter[str] = Counter()
    for chat in chats:
        messages_of[chat["source"]] += chat["messages"]
    files = [
        FileOutcome(file.name, counts={"chats": chats_of[file.name], "messages": messages_of[file.name]})
        for file in converted.files
        if file.status != "quarantined"
    ]
    return Result("store", files, {"chats": len(chats), "messages": messages_of.total(), **counts})


def _line(error: Exception, url: str) -> str:
    """Return the error in one line that may be shown: libpq repeats a URL it does not understand."""
    return " ".join(str(error).replace(url, "TDP_DATABASE_URL").split())


def _fail(status: int, message: str) -> int:
    sys.stderr.write(f"store: {message}\n")
    return status
