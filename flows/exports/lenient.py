"""Decode JSON that is invalid in ways that Telegram Desktop and other programs are known for."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgspec

#: Control characters as Telegram Desktop wrote them (tdesktop issue 27571).
_BAD_ESCAPE = re.compile(rb"(?<!\\)((?:\\\\)*)\\x([0-9A-Fa-f]{2})")
#: Backslashes that begin no escape, as in paths of Windows that were written by hand.
_NO_ESCAPE = re.compile(rb'(?<!\\)((?:\\\\)*)\\(?!["\\/bfnrt]|u[0-9A-Fa-f]{4})')
#: Paths without quotes, as version 4.1.1 wrote them (tdesktop issue 24961).
_BARE_PATH = re.compile(rb'("document_id"\s*+:\s*+)(?!["\d\[{-]|null\b)([^"\n,}]++)(?=[\n,}])')
#: Decimal commas, as releases of 2018 wrote them in some languages; strings, even without an end; and commas,
#: of which those without a member or element behind them are odd (members deleted by hand). No part of a text
#: is examined twice, however long it is.
_COMMAS = re.compile(
    r'("l(?:at|ong)itude"\s*+:\s*+-?\d++),(?=\d{6}\b)|"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|,[\s,]*+',
    re.DOTALL,
)
#: The member with further values of keys that occur several times in one object.
REPEATED = "repeated_keys"
#: Characters that PostgreSQL's text does not accept: NUL and lone surrogates.
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


def lenient(raw: bytes) -> Any:
    """Decode JSON with invalid strings and numbers. Raises ValueError or RecursionError."""
    raw = _BAD_ESCAPE.sub(rb"\1\\u00\2", raw)
    raw = _NO_ESCAPE.sub(rb"\1\\\\", raw)
    raw = _BARE_PATH.sub(lambda match: match[1] + encode(match[2].decode("utf-8", "replace").strip()), raw)
    text = raw.decode("utf-8", "replace")
    try:
        return _clean(_loads(text))
    except json.JSONDecodeError:
        return _clean(_loads(_COMMAS.sub(_without_odd_commas, text)))


def is_decodable(raw: bytes) -> bool:
    """Return whether :func:`lenient` decodes a value."""
    try:
        lenient(raw)
    except (ValueError, RecursionError):
        return False
    return True


def key_of(raw: bytes) -> str:
    """Return the key that ``raw`` is."""
    try:
        return msgspec.json.decode(raw, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return raw[1:-1].decode("utf-8", "replace")


def _without_odd_commas(match: re.Match[str]) -> str:
    if match[1]:
        return f"{match[1]}."
    behind = match.string[match.end() : match.end() + 1]
    return "" if match[0][0] == "," and behind in ("}", "]") else match[0]


def _loads(text: str) -> Any:
    return json.loads(
        text,
        strict=False,
        parse_int=_int,
        parse_float=_float,
        parse_constant=_null,
        object_pairs_hook=object_of,
    )


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; :mod:`flows.exports.repair` describes how keys that occur several times are
    handled."""
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    members.clear()
    others: dict[str, list[Any]] = {}
    for key, value in pairs:
        if (before := members.setdefault(key, value)) is value or value in _EMPTY:
            continue
        members[key] = value
        if before != value and before not in _EMPTY:
            others.setdefault(key, []).append(before)
    return members | ({REPEATED: others} if others else {})


_EMPTY: tuple[Any, ...] = (None, "", [], {})


def encode(value: Any) -> bytes:
    """Encode a value that :func:`lenient` has returned."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _NO_TEXT.sub("\ufffd", value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return value


def _int(digits: str) -> int | str:
    return int(digits) if len(digits) < 1000 else digits


def _float(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


def _null(_: str) -> None:
    """Decode NaN and Infinity as None."""
