"""Exports in UTF-16 or UTF-32, as PowerShell and old editors save them: rewritten in UTF-8."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator

from flows.errors import BadInput


def start_in_utf8(head: bytes) -> bytes:
    """Return the beginning of a text in UTF-8, as it is or rewritten."""
    encoding = encoding_of(head)
    return head.decode(encoding, "ignore").encode(errors="ignore") if encoding else head


def encoding_of(head: bytes) -> str | None:
    """Return the encoding of a JSON or HTML text that begins with ``head`` if it has to be rewritten."""
    encoding = json.detect_encoding(head)  # from its mark or its first four characters, which are ASCII
    return None if encoding.startswith("utf-8") else encoding


def in_utf8(chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Yield the text in UTF-8. Raises BadInput if it is not in ``encoding``."""
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for chunk in chunks:
            yield decoder.decode(chunk).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        name = encoding.upper()
        raise BadInput(f"it is text in {name} and damaged ({error}): export it again, in UTF-8") from error
