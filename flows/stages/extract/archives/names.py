"""Decode names of members whose character set the archive does not state."""

from __future__ import annotations

import re
import unicodedata
from typing import TypeGuard

#: The part of GB2312 with ASCII and the 3,755 most common characters.
_COMMON_CHINESE = re.compile(rb"(?:[\x00-\x7f]|[\xb0-\xd7][\xa1-\xfe])*")


_WORD = re.compile(r"[^\W\d_]+")


def decode_name(raw: bytes) -> str:
    """Return a member's name from its bytes if the archive does not state the character set.

    The first character set that fits is used: UTF-8, which many packers write without stating it; Cyrillic of
    DOS; common Chinese; Cyrillic of Windows; Latin of DOS; any Chinese; else CP437, the default of ZIP, which
    fits all bytes. A script fits if every word is in it or in ASCII. Some bytes fit several character sets;
    only the name depends on the choice.
    """
    if (name := _in(raw, "utf-8")) is not None:
        return name
    if _fits(name := _in(raw, "cp866"), "CYRILLIC"):
        return name
    if _COMMON_CHINESE.fullmatch(raw):
        return raw.decode("gbk")
    if _fits(name := _in(raw, "cp1251"), "CYRILLIC"):
        return name
    name = _in(raw, "gbk")
    latin = raw.decode("cp437")
    return latin if name is None or _fits(latin, "LATIN") else name


def _in(raw: bytes, encoding: str) -> str | None:
    try:
        return raw.decode(encoding)
    except UnicodeError:
        return None


def _fits(name: str | None, script: str) -> TypeGuard[str]:
    return (
        name is not None
        and all(char.isascii() or char.isalpha() for char in name)
        and all(
            word.isascii() or all(unicodedata.name(char, "").startswith(script) for char in word)
            for word in _WORD.findall(name)
        )
    )
