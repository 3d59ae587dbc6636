"""Exports that an editor or shell has saved in UTF-16, or in an encoding of before Unicode.

What a page says about its own encoding is not used: editors that change the encoding leave it as it was.
"""

from __future__ import annotations

import codecs
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

_CHUNK = 1 << 20
#: First bytes of a file: byte order marks, and the first characters of JSON and HTML without one.
_UTF_16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
_UTF_16 |= {bytes([char, 0]): "utf-16-le" for char in b"{[<"}
_UTF_16 |= {bytes([0, char]): "utf-16-be" for char in b"{[<"}

#: Bytes of a file from which an encoding of before Unicode is detected.
SAMPLE = 1 << 20
#: How many of its words' bytes must not be ASCII; more for two encodings that differ in few letters.
_ENOUGH = 12
_ENOUGH_OF = {"Windows-1250": 100, "ISO-8859-2": 100}
#: Bytes at the start of a JSON file that show whether it is UTF-8: names and the first texts.
_HEAD = 1 << 16
#: So many such bytes are in UTF-8 by chance in one of thousands of texts.
_SURE = 8
_ASCII = bytes(range(0x80))
#: Where texts end in JSON and HTML.
_EDGES = re.compile(rb"""[\n"]|<[^<>]*+>""")
_WORDS = re.compile(rb"""[^\s<>"&;:=/.,!?()\x80-\xff]{0,30}+[\x80-\xff][^\s<>"&;:=/.,!?()]{0,60}+""")

#: Encodings of editors for Windows, Linux and browsers. A wrong byte makes others likelier, such as Mac's.
_USUAL = re.compile(r"cp(125\d|866|874|932|949)|koi8-[ru]|iso8859-\d+|gb.*|big5.*|shift_jis.*|euc_.*")
#: Greek, Cyrillic, Armenian, Hebrew and Arabic words, and words that have such letters and Latin ones.
_OTHER_WORDS = re.compile("[\u0370-\u06ff]+")
_MIXED = re.compile("[A-Za-z][\u0370-\u06ff]|[\u0370-\u06ff][A-Za-z]")


def utf16_of(head: bytes) -> str | None:
    """Return the UTF-16 encoding of a file that begins with ``head``; None if it is not UTF-16."""
    return _UTF_16.get(head[:2])


def is_utf8(raw: bytes, *, final: bool = True) -> bool:
    """Return whether a text is in UTF-8; unless ``final``, its last character may be cut."""
    try:
        codecs.utf_8_decode(raw, "strict", final)
    except UnicodeDecodeError:
        return False
    return True


def legacy_of(sample: bytes) -> str | None:
    """Return the encoding of before Unicode that a text has; None if it is not certain.

    ``sample`` is a part of the text that is not UTF-8. The encoding is certain if its texts without
    their markup, and their words by themselves, are detected as the same characters.
    """
    import chardet  # late: most exports are UTF-8

    words = b" ".join(dict.fromkeys(_WORDS.findall(sample)))
    texts = dict.fromkeys(part for part in _EDGES.split(sample) if _beyond_ascii(part))
    whole = [part for part in texts if _beyond_ascii(part) >= _SURE]
    if sum(map(is_utf8, whole)) > len(whole) // 10:
        return None  # it is UTF-8 with some other bytes in it
    guesses = {chardet.detect(part)["encoding"] for part in (words, b"\n".join(texts))}
    found = {_decoded(sample, guess) for guess in guesses}
    enough = max(_ENOUGH_OF.get(guess or "", _ENOUGH) for guess in guesses)
    text = found.pop() if len(found) == 1 else None
    is_certain = text and _beyond_ascii(words) >= enough and not _mixes_scripts(text)
    return guesses.pop() if is_certain else None


def _beyond_ascii(text: bytes) -> int:
    return 0 if text.isascii() else len(text.translate(None, _ASCII))


def _mixes_scripts(text: str) -> bool:
    """Return whether words have Latin letters beside those of another alphabet, as in a wrong encoding."""
    return len(_MIXED.findall(text)) > len(_OTHER_WORDS.findall(text)) // 20


def _decoded(raw: bytes, encoding: str | None) -> str | None:
    """Return the text, maybe with its last character cut; None if it has another encoding."""
    try:
        if not encoding or not _USUAL.fullmatch(codecs.lookup(encoding).name):
            return None
        return codecs.getincrementaldecoder(encoding)().decode(raw)
    except (LookupError, UnicodeDecodeError):
        return None


@contextmanager
def as_utf8(path: Path) -> Iterator[Path]:
    """Yield ``path``, or if it has another encoding, a temporary file with its text in UTF-8.

    It stays as it is if its encoding is not certain. Raises OSError.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
        encoding = utf16_of(head[:2])
        if not encoding and not is_utf8(head, final=False):
            encoding = legacy_of(head + file.read(SAMPLE - len(head)))
        if not encoding:
            yield path
            return
        file.seek(0)
        with tempfile.NamedTemporaryFile(suffix=path.suffix) as copy:
            try:
                _rewrite(file, copy, encoding, "replace" if encoding in _UTF_16.values() else "strict")
            except UnicodeDecodeError:  # some of it: the reader names what it replaces
                yield path
            else:
                yield Path(copy.name)


def _rewrite(file: BinaryIO, copy: IO[bytes], encoding: str, errors: str) -> None:
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    while chunk := file.read(_CHUNK):
        copy.write(decoder.decode(chunk).encode("utf-8", "replace"))
    copy.write(decoder.decode(b"", final=True).encode())
    copy.flush()
