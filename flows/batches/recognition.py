"""Recognise files that are plainly neither an export nor an archive, from their name and first bytes."""

from __future__ import annotations

import codecs
import re

from flows.stages.extract.archives import HEAD, format_of

__all__ = ["HEAD", "is_junk", "is_unfinished", "plainly_other"]

#: Suffixes that copying tools and browsers give to unfinished files.
_UNFINISHED_SUFFIXES = (".part", ".partial", ".tmp", ".crdownload", ".download", ".filepart")
#: What Windows and macOS write into folders, for themselves.
_JUNK = re.compile(
    r"(eh)?thumbs\.db|desktop\.ini|\.ds_store|\._.*|.*:zone\.identifier", re.IGNORECASE | re.DOTALL
)

#: Names of files that people send as exports: whatever they contain, the reason for failure is recorded.
_SENT = re.compile(
    r"\.(zip|7z|rar|tar|gz|tgz|bz2|tbz2?|xz|txz|zst|json|html?|z?\d{2,3}|part\d+\.rar)$", re.IGNORECASE
)
_HTML_NAME = re.compile(r"\.html?$", re.IGNORECASE)
_HTML = re.compile(rb"<!doctype html|<html", re.IGNORECASE)
_OTHER = {
    rb"%PDF-": "a PDF document",
    rb"\{\\rtf": "an RTF document",
    rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "a file of an older Microsoft program",
    rb"SQLite format 3\x00": "an SQLite database",
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|RIFF....WEBP|II\*\x00|MM\x00\*": "a picture",
    rb"....ftyp|RIFF....AVI |\x1aE\xdf\xa3|\x00\x00\x01[\xb3\xba]": "a video or a picture",
    rb"ID3|OggS|fLaC|RIFF....WAVE": "a sound recording",
}
#: Bytes without a control character that no archive has: each has one of them in ten.
_ENOUGH = 200
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f]")


def is_junk(name: str) -> bool:
    """Return whether a file is metadata of an operating system, by its name."""
    return bool(_JUNK.fullmatch(name))


def is_unfinished(name: str) -> bool:
    """Return whether a file is hidden or has the name of an unfinished copy."""
    return name.startswith(".") or name.lower().endswith(_UNFINISHED_SUFFIXES)


def plainly_other(name: str, head: bytes, *, is_whole: bool) -> str | None:
    """Return what a file is that is plainly no export and no archive; None for every other file.

    ``head`` is its first HEAD bytes; ``is_whole``: these are all. A file with the name of an archive or an
    export counts as one, unless it is plainly a document or a picture.
    """
    for magic, kind in _OTHER.items():
        if re.match(magic, head, re.DOTALL):
            return kind
    if not head or _SENT.search(name):
        return None
    found = format_of(head)
    if found == "html" and not _HTML_NAME.search(name) and not _HTML.search(head):
        return "a text"
    return "a text" if not found and _is_text(head, is_whole=is_whole) else None


def _is_text(head: bytes, *, is_whole: bool) -> bool:
    utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    decoder = codecs.getincrementaldecoder("utf-16" if utf16 else "utf-8")()
    try:
        text = decoder.decode(head, final=is_whole)
    except UnicodeDecodeError:  # an encoding of before Unicode; if it is short, it may be anything
        return len(head) >= _ENOUGH and not _CONTROLS.search(head.decode("latin-1"))
    return not _CONTROLS.search(text)
