"""What `tdp` prints: on a console that shows control characters instead of obeying them.

Names and texts come from strangers. Their control characters could set the title of a terminal, write to its
clipboard, hide lines or show a file name backwards. So every command prints through this module, in a
terminal or not. JSON has them as escapes; an export has the data as they are.
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

#: Columns of an output that is not a terminal.
_UNWRAPPED = 10_000
_KEPT = "\t\n"
#: C1 controls and characters that change the direction of what follows; no font has a picture of them. Nor of
#: the halves of pairs by which Python keeps the bytes of a file name that is not UTF-8.
_WITHOUT_PICTURE = tuple(
    code
    for first, end in ((0x80, 0xA0), (0x202A, 0x202F), (0x2066, 0x206A), (0xD800, 0xE000))
    for code in range(first, end)
)
_PICTURES = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in _KEPT},
    0x7F: "\N{SYMBOL FOR DELETE}",
    **dict.fromkeys(_WITHOUT_PICTURE, "\N{REPLACEMENT CHARACTER}"),
}
#: JSON needs escapes for the C0 controls only.
_ESCAPES = {code: f"\\u{code:04x}" for code in (0x7F, *_WITHOUT_PICTURE)}


def visible(text: str) -> str:
    """Return the text with one visible character for each control character but tab and new line."""
    return text.translate(_PICTURES)


class Screen(Console):
    """A console that prints no control character of a text."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of a renderable; those of rich itself that control the terminal are kept."""
        for segment in super().render(_cell(renderable), options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


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


def echo(line: str) -> None:
    """Print a line without colours."""
    typer.echo(visible(line))


def echo_json(value: Any, *, indent: int = 0) -> None:
    """Print a value as JSON, on one line or indented."""
    encoded = msgspec.json.encode(value)
    if indent:
        encoded = msgspec.json.format(encoded, indent=indent)
    typer.echo(encoded.decode().translate(_ESCAPES))
