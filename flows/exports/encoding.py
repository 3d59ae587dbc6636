"""Exports that an editor or shell on Windows has saved as UTF-16."""

from __future__ import annotations

import codecs
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CHUNK = 1 << 20
#: First bytes of a file: byte order marks, and the first characters of JSON and HTML without one.
_UTF_16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
_UTF_16 |= {bytes([char, 0]): "utf-16-le" for char in b"{[<"}
_UTF_16 |= {bytes([0, char]): "utf-16-be" for char in b"{[<"}


def utf16_of(head: bytes) -> str | None:
    """Return the name of the UTF-16 encoding of a file that begins with ``head``; None if it is no UTF-16."""
    return _UTF_16.get(head[:2])


@contextmanager
def as_utf8(path: Path) -> Iterator[Path]:
    """Yield ``path``, or if that file is UTF-16, a temporary file with its text in UTF-8. Raises OSError."""
    with path.open("rb") as file:
        encoding = utf16_of(file.read(2))
        if not encoding:
            yield path
            return
        file.seek(0)
        with tempfile.NamedTemporaryFile(suffix=path.suffix) as copy:
            decoder = codecs.getincrementaldecoder(encoding)("replace")
            while chunk := file.read(_CHUNK):
                copy.write(decoder.decode(chunk).encode("utf-8", "replace"))
            copy.write(decoder.decode(b"", final=True).encode())
            copy.flush()
            yield Path(copy.name)
