"""Named statements in ``.sql`` files: all SQL of the project is run through them.

A psycopg 3 session (:mod:`flows.ledger.session`) uses the text of one statement by its name. A psycopg2
connection (:mod:`flows.ledger.connection`) uses the statements of one file as functions.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import aiosql
import msgspec

_FOLDER = Path(__file__).parent / "sql"
T = TypeVar("T")


def sql(name: str) -> str:
    """Return the statement ``name`` with ``%(name)s`` placeholders; AttributeError if no file has it."""
    text: str = getattr(_all(), name).sql
    return text


@cache
def load(file: str, *, as_dicts: bool = True) -> Any:
    """Return the statements of ``file`` as functions of a psycopg2 connection; rows are dicts or tuples."""
    options: dict[str, Any] = {}
    if as_dicts:
        from psycopg2.extras import RealDictCursor

        options["kwargs"] = {"cursor_factory": RealDictCursor}
    return aiosql.from_path(_FOLDER / file, "psycopg2", **options)


def records(rows: Any, kind: type[T]) -> list[T]:
    """Convert dict rows to a list of ``kind``."""
    return msgspec.convert(list(rows), list[kind], strict=False)  # type: ignore[valid-type] # mypy wants a static type


@cache
def _all() -> Any:
    return aiosql.from_path(_FOLDER, "psycopg2", mandatory_parameters=False)
