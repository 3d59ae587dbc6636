"""Names of members in the character sets of the packers that wrote them."""

from __future__ import annotations

import re
import unicodedata

#: GB2312 with nothing but ASCII and the 3,755 most common characters.
_COMMON_CHINESE = re.compile(rb"(?:[\x00-\x7f]|[\xb0-\xd7][\xa1-\xfe])*")


def decode_name(raw: bytes) -> str:
    """Return a member's name from the bytes of it, when the archive does not say in which character set.

    The first that fits is taken: UTF-8, which many packers write without saying so; the Cyrillic of DOS or of
    Windows, if all letters are Cyrillic then; Chinese; else CP437, the standard's own, which fits anything.
    Two of them can fit the same bytes; common Chinese goes before Windows' Cyrillic, whose words seldom look
    like it.
    """
    if (name := _in(raw, "utf-8")) is not None:
        return name
    if (name := _in(raw, "cp866")) and _is_cyrillic(name):
        return name
    if _COMMON_CHINESE.fullmatch(raw):
        return raw.decode("gbk")
    if (name := _in(raw, "cp1251")) and _is_cyrillic(name):
        return name
    name = _in(raw, "gbk")
    return raw.decode("cp437") if name is None else name


def _in(raw: bytes, encoding: str) -> str | None:
    try:
        return raw.decode(encoding)
    except UnicodeError:
        return None


def _is_cyrillic(name: str) -> bool:
    return all(char.isascii() or unicodedata.name(char, "").startswith("CYRILLIC") for char in name)
