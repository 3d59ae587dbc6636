"""Tokens of JSON, as far as the scanner has to know them."""

from __future__ import annotations

import re

BLANK = re.compile(rb"[ \t\r\n]*+")
STRING = re.compile(rb'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"', re.DOTALL)
TOKEN = re.compile(STRING.pattern + rb'|["\[\]{}]', re.DOTALL)
SCALAR = re.compile(rb"[^\s,:\[\]{}\"]++")
#: What may stand between two documents of one file: white space, commas, byte order marks (files joined by
#: `cat`), NULs (a power failure), record separators (RFC 7464), and DOS's end-of-file mark (`copy a+b`).
BETWEEN = re.compile(rb"(?:[ \t\r\n,\0\x1a\x1e]|\xef\xbb\xbf)*+")
#: Strings may have raw line breaks, which other programs write.
_LOOSE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{}]', re.DOTALL)


def loose_end(data: bytes, start: int) -> int:
    """Return where the array or object at ``start`` ends, if its strings may have line breaks; or -1."""
    depth = 0
    for token in _LOOSE.finditer(data, start):
        byte = data[token.start()]
        depth += (byte in b"{[") - (byte in b"}]")
        if not depth:
            return token.end() if byte in b"}]" else -1
    return -1
