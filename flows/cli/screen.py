"""The output of `tdp`: a console that shows control characters instead of sending them to the terminal.

Every command prints through this module, in a terminal or not. A text is one line: the line breaks of a name
are shown (:mod:`flows.reports.visible`), and a page of several lines is a group of several texts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import msgspec
import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from flows.reports.visible import escaped, visible, visible_lines

#: Columns of an output that is not a terminal.
_UNWRAPPED = 10_000


class Screen(Console):
    """A console that prints no control character of a text."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of a renderable; those of rich itself that control the terminal are kept."""
        for segment in super().render(_cell(renderable), options):
            yield segment if segment.control else segment._replace(text=visible_lines(segment.text))


class Cells(Table):
    """A table whose columns are as wide as what is printed."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row of cells."""
        super().add_row(*map(_cell, cells), **options)


def _cell(value: Any) -> Any:
    """Return texts as they are printed, so that they are measured and wrapped so."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Text):
        value = value.copy()
        value.plain = visible(value.plain)
    return value


def console(*, stderr: bool = False, highlight: bool = True) -> Screen:
    """Return a console; without a terminal its lines do not wrap, so that scripts can read them."""
    found = Screen(stderr=stderr, highlight=highlight)
    if found.is_terminal or "COLUMNS" in os.environ:
        return found
    return Screen(stderr=stderr, highlight=highlight, width=_UNWRAPPED)


def echo(*lines: str) -> None:
    """Print lines without colours."""
    for line in lines:
        typer.echo(visible(line))


def note_more(limit: int) -> None:
    """Print on stderr, so that it is not among the data, that there are more rows than were printed."""
    Screen(stderr=True, soft_wrap=True, highlight=False).print(
        f"These are the newest {limit:,}; --limit shows more."
    )


def echo_json(value: Any, *, indent: int = 0) -> None:
    """Print a value as JSON, on one line or indented."""
    encoded = msgspec.json.encode(value)
    if indent:
        encoded = msgspec.json.format(encoded, indent=indent)
    typer.echo(escaped(encoded.decode()))
