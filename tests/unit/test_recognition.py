"""What is plainly neither an export nor an archive, and what is not judged by its look."""

from __future__ import annotations

import pytest

from flows.batches.recognition import plainly_other


@pytest.mark.parametrize(
    ("name", "head", "kind"),
    [
        ("a.pdf", b"%PDF-1.7\n", "a PDF document"),
        ("a.zip", b"%PDF-1.7\n", "a PDF document"),
        ("a.jpg", b"\xff\xd8\xff\xe0", "a picture"),
        ("a.webp", b"RIFF\x10\0\0\0WEBPVP8 ", "a picture"),
        ("a.mp4", b"\0\0\0\x20ftypisom", "a video or a picture"),
        ("Thumbs.db", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a file of an older Microsoft program"),
        ("a.rtf", rb"{\rtf1\ansi}", "an RTF document"),
        ("notes.txt", "носки\n".encode(), "a text"),
        ("cut.txt", "носки".encode()[:-1], None),
        ("notes.txt", "socks\n".encode("utf-16"), "a text"),
        ("notes.txt", ("носки\n" * 40).encode("cp1251"), "a text"),
        ("notes.txt", ("袜子\n" * 50).encode("gbk"), "a text"),
        ("a.bin", bytes(range(128, 256)) * 2 + b"\0", None),
        ("a.svg", b"<svg xmlns=''>", "a text"),
        ("a.zip:Zone.Identifier", b"[ZoneTransfer]\r\nZoneId=3\r\n", "a text"),
        ("a.zip", b"a text that is named as an archive", None),
        ("result.json", b"[]", None),
        ("a", b'{"name": "Anna"}', None),
        ("a.txt", b"<!DOCTYPE html><html>", None),
        ("a", b"PK\x03\x04", None),
        ("a.bin", b"\0\1\2\3", None),
        ("a.zip", b"MZ\x90\0", None),
        ("empty.txt", b"", None),
    ],
)
def test_kinds(name: str, head: bytes, kind: str | None) -> None:
    assert plainly_other(name, head, is_whole=True) == kind


def test_a_head_may_end_within_a_character() -> None:
    assert plainly_other("a.txt", "носки".encode()[:-1], is_whole=False) == "a text"
