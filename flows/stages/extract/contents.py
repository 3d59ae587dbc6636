"""Classify a member by its content: an export in JSON or HTML, an archive, or neither."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from io import BytesIO
from itertools import chain
from mimetypes import MimeTypes

from flows.errors import BadInput
from flows.exports import signs
from flows.exports.damage import CutOff, Malformed
from flows.exports.lenient import lenient
from flows.exports.scan import Scanner
from flows.stages.extract.archives import ARCHIVES, HEAD, format_of
from flows.stages.extract.archives.base import EndsEarly
from flows.stages.extract.archives.texts import encoding_of, in_utf8, start_in_utf8
from flows.stages.extract.archives.zip_list import END
from flows.stages.extract.entry import with_ending

#: Names of archives, also of formats that are not read.
NESTED = re.compile(
    r".*\.(zipx?|7z|rar|tar|t?gz|t?bz2?|t?xz|t?zst|lz4|lzma|lz|cab|arj|lzh|ace|iso|dmg)",
    re.IGNORECASE | re.DOTALL,
)
#: Endings of names by which convert recognises exports.
_ENDINGS = {"json": (".json",), "html": (".html", ".htm")}
#: From Python's own list, without the types that the machine adds.
_TYPES = MimeTypes()
#: The beginnings of programs of Windows and Linux, and of what a self-extracting archive has in it.
_PROGRAMS = (b"MZ", b"\x7fELF")
_PACKED = (END + bytes(4), b"Rar!\x1a\x07\0", b"Rar!\x1a\x07\1\0", b"7z\xbc\xaf\x27\x1c\0")
#: Pages that browsers saved as one file of their own formats, and what Telegram Desktop writes into them.
_SAVED_PAGE = re.compile(r".*\.(mht(ml)?|webarchive)", re.IGNORECASE | re.DOTALL)
_OF_TELEGRAM = (b"chat_page", b"page_header", b"message default")
#: Members that can only be exports, and the reason if they begin like an empty file.
_SURE = re.compile(r"(.*/)?(result|messages)[^/]*\.(json|html?)", re.IGNORECASE)
_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html)\b", re.IGNORECASE)
_EMPTY = "it is empty, as after a full disk: export again, or pack the export again"
_ZEROS = (
    "its beginning is empty (only zeros), as after a power failure or a full disk: export again, or pack the"
    " export again"
)

#: What is missing in JSON that is not an export.
NO_CHATS = (
    "not a Telegram export, it has no chats: export again from Telegram Desktop as machine-readable JSON"
)
NO_JSON = "not a Telegram export, it is not JSON: export again from Telegram Desktop as machine-readable JSON"
NO_CHAT_OF = (
    "it has messages but does not say of which chat: submit the result.json that Telegram Desktop wrote"
)
CUT_OFF = "it is cut off before its first message: export or copy it again"


class BeforeCut:
    """The chunks of a member up to its end, or up to where it is cut off (``is_cut``)."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        """Read ``chunks``."""
        self._chunks = chunks
        self.is_cut = False

    def __iter__(self) -> Iterator[bytes]:
        """Yield them. Raises BadInput if the member is damaged in another way."""
        try:
            yield from self._chunks
        except EndsEarly:
            self.is_cut = True

    def check(self) -> None:
        """Raise EndsEarly if the member was cut off."""
        if self.is_cut:
            raise EndsEarly


class Text:
    """A member that may be an export. ``encoding`` is set if it has to be rewritten in UTF-8."""

    def __init__(self, content: Iterable[bytes]) -> None:
        """Read its beginning."""
        self._head, self._rest = b"", iter(content)
        self._read(signs.HEAD)
        self.encoding = encoding_of(self._head)

    def _read(self, size: int) -> None:
        """Read on, to the first ``size`` bytes."""
        for chunk in self._rest if len(self._head) < size else ():
            self._head += chunk
            if len(self._head) >= size:
                break

    @property
    def is_blank(self) -> bool:
        """Return whether it begins with nothing: it is empty, or has only white space or zeros there."""
        return not self._head.strip(b"\0 \t\r\n")

    @property
    def has_messages(self) -> bool:
        """Return whether it is JSON with messages as in an export, maybe without their chat."""
        return signs.has_json_messages(start_in_utf8(self._head))

    @property
    def lack(self) -> str:
        """Why it is not an export in JSON, for the operator."""
        if self.has_messages:
            return NO_CHAT_OF
        head = start_in_utf8(self._head).lstrip(b"\xef\xbb\xbf \t\r\n")
        if head[:1] not in (b"{", b"["):
            return NO_JSON
        try:
            lenient(Scanner(BytesIO(head)).value())
        except CutOff:
            return NO_CHATS if len(self._head) >= signs.HEAD else CUT_OFF
        except (Malformed, ValueError, RecursionError):
            return NO_JSON
        return NO_CHATS

    def form(self, path: str) -> str | None:
        """Return the form of the export that it is: ``json`` or ``html``; None if it is not an export.

        Raises BadInput if its name is that of an export and it is blank.
        """
        if self.is_blank and _SURE.fullmatch(path):
            raise BadInput(_ZEROS if b"\0" in self._head else _EMPTY)
        head = start_in_utf8(self._head)
        first = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        by_name = path.lower().endswith(".json") and first != b"<"
        if (by_name or first in (b"{", b"[")) and signs.is_json_export(head):
            return "json"
        if by_name:
            return None
        if _PAGE.match(head) and not signs.is_page(path, head):
            self._read(signs.PAGE_HEAD)
            head = start_in_utf8(self._head)
        return "html" if signs.is_page(path, head) else None

    def chunks(self) -> Iterator[bytes]:
        """Return its content, in UTF-8."""
        whole = chain([self._head], self._rest)
        return in_utf8(whole, self.encoding) if self.encoding else whole


def has_media_name(path: str) -> bool:
    """Return whether the name of a file is that of a picture, a sound or a video."""
    return (_TYPES.guess_type(path)[0] or "").startswith(("image/", "audio/", "video/"))


def named(path: str, form: str) -> str:
    """Return ``path`` with an ending by which convert recognises an export of this form."""
    return path if path.lower().endswith(_ENDINGS[form]) else with_ending(path, f".{form}")


def kind_of(path: str, chunks: Iterator[bytes]) -> str | None:
    """Return what a member without the name of an export is: ``archive``, ``export``, or None for neither.

    A file of unknown format counts as an archive if its name is that of one, or if it is a self-extracting
    program or a page in a browser's own format: opening it shows its fault. Raises BadInput if it is damaged.
    """
    first = next(chunks, b"")
    found = format_of(first[:HEAD])
    if found in ARCHIVES or (not found and NESTED.fullmatch(path)):
        return "archive"
    if found:
        return "export" if Text(chain([first], BeforeCut(chunks))).form(path) else None
    searched = _PACKED if first.startswith(_PROGRAMS) else _OF_TELEGRAM if _SAVED_PAGE.fullmatch(path) else ()
    return "archive" if searched and _holds_any(chain([first], chunks), searched) else None


def _holds_any(chunks: Iterable[bytes], signs: Collection[bytes]) -> bool:
    """Return whether one of ``signs`` is in the content of a file."""
    held, longest = b"", max(map(len, signs))
    for chunk in chunks:
        held = held[-longest:] + chunk
        if any(sign in held for sign in signs):
            return True
    return False
