"""The plain text of a ``rich_message``: nested blocks (headings, paragraphs, lists, tables) since 2026.

The names of its members differ between releases and are not documented, so the text is collected by form:
strings in lists are text, strings in objects are text under the names in TEXTS, and all else is descended
into. The pieces of one text follow each other; everything else begins a new line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec

#: Members whose strings people read; other strings are types, addresses and identifiers.
TEXTS = ("text", "title", "subtitle", "caption", "header", "footer", "author", "summary", "credit", "label",
         "content", "value", "plain", "alt", "code", "expression", "question", "name", "description",
         "source", "formula")  # fmt: skip

_KINDS = ("text", "blocks")
_ANCHOR = ("anchor", "name")


def rich_text(raw: bytes) -> str:
    """Return the text of one ``rich_message``, valid JSON; empty if it is nested too deep."""
    with suppress(RecursionError):
        return "\n".join(filter(None, _lines(msgspec.json.decode(raw))))
    return ""


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _lines(item)
    elif isinstance(value, dict):
        for key, member in value.items():
            if _is_text(value, key) and not isinstance(member, dict) and _is_inline(member):
                yield _inline(member)
            elif isinstance(member, list | dict):
                yield from _lines(member)


def _is_inline(value: Any) -> bool:
    """Return whether ``value`` is one text: a string, a formatted piece of one, or a list of both.

    A piece without a text (a picture in the middle of a line) does not break the line.
    """
    if isinstance(value, list):
        return all(map(_is_inline, value))
    if isinstance(value, dict):
        texts = [value[key] for key in TEXTS if _is_text(value, key)]
        return (any(map(_is_inline, texts)) if texts else "type" in value) and "blocks" not in value
    return isinstance(value, str)


def _inline(value: Any) -> str:
    if isinstance(value, list):
        return "".join(map(_inline, value))
    if isinstance(value, dict):
        return "".join(
            _inline(value[key]) for key in TEXTS if _is_text(value, key) and _is_inline(value[key])
        )
    return str(value)


def _is_text(value: dict[str, Any], key: str) -> bool:
    """Return whether people read this member: not the name of an anchor, nor of the kind of a content."""
    return key in TEXTS and key in value and value[key] not in _KINDS and (value.get("type"), key) != _ANCHOR
