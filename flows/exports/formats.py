"""Entry point of this package: read one export of either form (the import takes Arrow's 0.1 s)."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from flows.exports.discover import Export
from flows.exports.html_batch import HtmlBatch
from flows.exports.html_export import read_html
from flows.exports.json_export import read_json
from flows.exports.reading import Map, Reading


def read_export(
    export: Export, reading: Reading, batch: HtmlBatch | None = None, each: Map = map
) -> Iterator[pa.RecordBatch]:
    """Yield the messages of ``export`` in batches of the schema MESSAGES.

    Chats and problems are added to ``reading``; the content of an export never raises an error. HTML is read
    in the context of its ``batch``. ``each`` may read the pieces of a long export in other processes. Raises
    OSError when its files cannot be read.
    """
    if export.form == "html":
        yield from read_html(export, reading, batch, each)
        return
    for rows in read_json(export.parts[0], reading, each):
        if batch and batch.twins:
            batch.twins.note(rows)
        yield rows
