"""Formatting of figures for people, and tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

#: Placeholder for a missing value.
NOTHING = "–"
_UNITS = frozenset({"s", "min", "h", "B", "kB", "MB", "GB", "TB"})
_NO_BREAK = "\N{NO-BREAK SPACE}"


def seconds(value: float | None) -> str:
    """Return a duration: ``0.42 s``, ``38.1 s``, ``12 min 04 s``, ``3 h 20 min``."""
    if value is None:
        return NOTHING
    if value < 59.95:
        return f"{value:.2f} s" if value < 9.995 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(value: float | None) -> str:
    """Return a number of bytes in decimal units: ``512 B``, ``3.2 MB``."""
    if value is None:
        return NOTHING
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def number(value: float | None, digits: int = 1) -> str:
    """Return a number with thousands separators."""
    return NOTHING if value is None else f"{value:,.{digits}f}"


def count(value: int, one: str, many: str) -> str:
    """Return a number with its noun: ``1 batch``, ``1,200 batches``."""
    return f"{value:,} {one if value == 1 else many}"


def percent(value: float | None) -> str:
    """Return a fraction of 1 as a percentage."""
    return NOTHING if value is None else f"{value:.0%}"


def short(value: str | None, length: int = 160) -> str:
    """Return text as one line of about ``length`` characters; longer text is cut in the middle."""
    line = " ".join((value or NOTHING).split())
    half = length // 2
    return line if len(line) <= length else f"{line[:half]} … {line[-half:]}"


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; columns of figures are right-aligned, and figures have no line breaks."""
    body = [[_escape(cell) for cell in row] for row in rows]
    rules = [
        "---:" if column and all(_is_figure(cell) for cell in column) else "---"
        for column in ([row[i] for row in body] for i in range(len(headers)))
    ]
    body = [[cell.replace(" ", _NO_BREAK) if _is_figure(cell) else cell for cell in row] for row in body]
    return "\n".join("| " + " | ".join(line) + " |" for line in (headers, rules, *body))


def _is_figure(cell: str) -> bool:
    words = [word.rstrip("%").replace(",", "").replace(".", "") for word in cell.split()]
    return cell == NOTHING or all(word.isdigit() or word in _UNITS for word in words)


def _escape(cell: str) -> str:
    """Escape file names and error texts from outside: they must not end a cell or open a tag."""
    return short(cell, 400).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
