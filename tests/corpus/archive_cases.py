"""Archives of every format: ordinary, broken and hostile ones."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import tarfile

import py7zr
from backports import zstd
from cases import Case, Chat, partly, quarantined, stored
from packing import (
    encrypted,
    encrypted_rar,
    framed_sevenzip,
    patched_7z,
    plain_sevenzip,
    rar,
    rar3,
    sevenzipped,
    tar_special,
    tarred,
    zipped,
)
from tar_cases import TARS, tar
from zip_cases import BIG, MB, NAMES, ZIPS, damaged, folder, with_export, zeros

BEHIND = "behind its end are more bytes"


def halves(chat: Chat) -> tuple[bytes, bytes]:
    """Return an export of each of the chat's messages."""
    return chat.dump(chat.message(1)), chat.dump(chat.message(2))


def two_in_rar(chat: Chat) -> bytes:
    return rar(*((f"{name}/result.json", half) for name, half in zip("ab", halves(chat), strict=True)))


def vast_window(data: bytes) -> bytes:
    """Return a zstd frame whose header needs a window of 3.75 TB."""
    return b"\x28\xb5\x2f\xfd\x00\xff" + data


SINGLE = [
    stored("bare JSON", lambda chat: chat.json),
    stored("bare HTML", lambda chat: chat.html),
    stored("bare JSON in gzip", lambda chat: gzip.compress(chat.json)),
    stored(
        "bare JSON in two gzips", lambda chat: gzip.compress(chat.json[:99]) + gzip.compress(chat.json[99:])
    ),
    stored("bare JSON in bzip2", lambda chat: bz2.compress(chat.json)),
    stored(
        "bare JSON in two bzip2s",
        lambda chat: bz2.compress(chat.json[:99]) + bytes(9) + bz2.compress(chat.json[99:]),
    ),
    stored("bare JSON in xz", lambda chat: lzma.compress(chat.json)),
    stored("bare JSON in LZMA", lambda chat: lzma.compress(chat.json, lzma.FORMAT_ALONE)),
    stored("bare JSON in zstd", lambda chat: zstd.compress(chat.json)),
    stored("bare HTML in gzip", lambda chat: gzip.compress(chat.html)),
    quarantined("gzip of JSON cut off", lambda chat: gzip.compress(chat.json)[:50], "cut off"),
    partly("gzip cut off behind a message", lambda c: gzip.compress(c.json, 0)[:-20], "is cut off", 1),
    partly("gzip without its checksum", lambda chat: gzip.compress(chat.json)[:-6], "is cut off"),
    quarantined(
        "gzip with another checksum", lambda chat: gzip.compress(chat.json)[:-8] + bytes(8), "damaged"
    ),
    quarantined(
        "gzip of a picture", lambda _: gzip.compress(b"\xff\xd8\xff\xe0" * 99), "not a Telegram export"
    ),
    quarantined(
        "xz with a vast dictionary",
        lambda chat: lzma.compress(chat.json, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]),
        "damaged (Memory usage limit",
    ),
    quarantined("zstd with a vast window", lambda chat: vast_window(chat.json), "damaged"),
    quarantined("empty file", lambda _: b"", "empty"),
    quarantined("noise", lambda _: bytes(range(250, 0, -1)) * 40, "neither an archive nor an export"),
    quarantined("only letters", lambda _: b"PK", "neither an archive nor an export"),
    quarantined("an image of a CD", lambda _: bytes(0x8001) + b"CD001", "format that is not read"),
    quarantined("cpio", lambda chat: b"070701" + chat.json, "format that is not read"),
    quarantined("xar", lambda chat: b"xar!" + chat.json, "format that is not read"),
    quarantined("a program", lambda _: b"MZ" + bytes(3000), "a program, not an export"),
]

COPY, BZIP2, LZMA, PPMD = (
    [{"id": kind}] for kind in (py7zr.FILTER_COPY, py7zr.FILTER_BZIP2, py7zr.FILTER_LZMA, py7zr.FILTER_PPMD)
)


def seven(chat: Chat) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    return ("Чат/result.json", chat.json), ("Чат/photos/a.jpg", b"a")


SEVENS = [
    stored("7z", lambda chat: sevenzipped(*seven(chat))),
    stored("7z of LZMA2 alone", lambda chat: plain_sevenzip(*seven(chat))),
    stored("7z of LZMA", lambda chat: sevenzipped(*seven(chat), filters=LZMA)),
    stored("7z of bzip2", lambda chat: sevenzipped(*seven(chat), filters=BZIP2)),
    stored("7z of Deflate", lambda c: sevenzipped(*seven(c), filters=[{"id": py7zr.FILTER_DEFLATE}])),
    stored("7z of zstd", lambda c: sevenzipped(*seven(c), filters=[{"id": py7zr.FILTER_ZSTD}])),
    stored("7z of zstd in several frames", lambda chat: framed_sevenzip("a/result.json", chat.json)),
    stored("7z stored", lambda chat: sevenzipped(*seven(chat), filters=COPY)),
    quarantined(
        "7z of PPMd",
        lambda chat: sevenzipped(*seven(chat), filters=[{"id": py7zr.FILTER_PPMD, "order": 6, "mem": 24}]),
        "(PPMd) is not supported",
    ),
    quarantined(
        "7z encrypted", lambda chat: sevenzipped(*seven(chat), password=chat.name), "without a password"
    ),
    quarantined(
        "7z encrypted whole",
        lambda chat: sevenzipped(*seven(chat), password=chat.name, header_encryption=True),
        "without a password",
    ),
    partly(
        "7z traversal",
        lambda chat: patched_7z(
            plain_sevenzip(("a/result.json", chat.json), ("zz/evil.json", b"{}")),
            "zz/".encode("utf-16-le"),
            "../".encode("utf-16-le"),
        ),
        "leads out",
    ),
    quarantined("7z bomb", lambda chat: sevenzipped(zeros(chat)), BIG),
    quarantined(
        "7z bomb before the export",
        lambda chat: sevenzipped(("a.jpg", bytes(60 * MB)), ("result.json", chat.json)),
        BIG,
    ),
    quarantined(
        "7z with a vast dictionary",
        lambda chat: patched_7z(
            plain_sevenzip(("result.json", chat.json)), b"\x21\x21\1\x10", b"\x21\x21\1\x28"
        ),
        "dictionary of over 256 MB",
    ),
    quarantined("7z cut off", lambda chat: sevenzipped(*seven(chat))[:-40], "damaged"),
    quarantined(
        "7z damaged", lambda chat: damaged(chat, sevenzipped(*seven(chat), filters=COPY)), "wrong checksum"
    ),
    quarantined("7z signature alone", lambda _: b"7z\xbc\xaf\x27\x1c" + bytes(99), "damaged"),
    quarantined(
        "7z with a list of contents of 1 TB",
        lambda _: b"7z\xbc\xaf\x27\x1c\0\4" + bytes(12) + struct.pack("<Q", 1 << 40) + bytes(99),
        "list of contents is over",
    ),
]

RARS = [
    stored("RAR", lambda chat: rar(*seven(chat))),
    stored("RAR with zeros behind it", lambda chat: rar(*seven(chat)) + bytes(5000)),
    partly("RAR with text behind it", lambda chat: rar(*seven(chat)) + b"--boundary--", BEHIND),
    partly("RAR with a ZIP behind it", lambda chat: rar(*seven(chat)) + folder(chat), BEHIND),
    partly("RAR without its end", lambda chat: two_in_rar(chat)[:-8], "not read to its end"),
    partly("RAR cut off in an export", lambda chat: two_in_rar(chat)[:-60], "'b/result.json' left out", 1),
    partly(
        "RAR with a damaged header",
        lambda chat: two_in_rar(chat).replace(b"b/result", b"c/result"),
        "not read to its end: it is damaged",
        1,
    ),
    quarantined(
        "RAR compressed", lambda chat: rar(*seven(chat), method=3), "none of unrar, unar, 7z and bsdtar is"
    ),
    stored("RAR 3", lambda chat: rar3(*seven(chat))),
    stored("RAR 3 with a compressed comment", lambda chat: rar3(*seven(chat), comment=b"packed")),
    stored("RAR of an export with another name", lambda chat: rar(("Чат/older.txt", chat.json))),
    stored(
        "RAR with a symlink within it",
        lambda chat: rar(("a/blob", chat.json), link=("b/result.json", "../a/blob")),
        read=4,
    ),
    quarantined("RAR encrypted", lambda _: encrypted_rar(), "without a password"),
    quarantined("RAR cut off", lambda chat: rar(*seven(chat))[:60], "damaged"),
    quarantined("RAR damaged", lambda chat: damaged(chat, rar(*seven(chat))), "damaged"),
    quarantined("RAR signature alone", lambda _: b"Rar!\x1a\x07\x01\0" + bytes(99), "damaged"),
    partly(
        "RAR traversal",
        lambda chat: rar(("../result.json", b"{}"), ("ok/result.json", chat.json)),
        "leads out",
    ),
]


def nested(chat: Chat, depth: int) -> bytes:
    data = folder(chat)
    for level in range(depth):
        data = zipped((f"{level}.zip", data))
    return data


def nested_bomb(_: Chat) -> bytes:
    level = zipped(*((f"{n}/result.json", b'{"messages": [' + bytes(MB)) for n in range(20)))
    return zipped(*((f"{n}.zip", zipped(("a.zip", level))) for n in range(3)))


def with_source_code(chat: Chat) -> bytes:
    link = tar_special("a/latest", tarfile.SYMTYPE, "../b")
    return zipped(("ok/result.json", chat.json), ("source.tgz", gzip.compress(tarred(link, ("a/b.c", b"")))))


NESTED = [
    stored("ZIP in ZIP", lambda chat: nested(chat, 1)),
    stored("three deep", lambda chat: nested(chat, 3)),
    quarantined(
        "four deep",
        lambda chat: nested(chat, 4),
        "'3.zip/2.zip/1.zip/0.zip' left out: archives within archives are opened 3 deep",
    ),
    stored("tar.gz in ZIP", lambda chat: zipped(("a.backup", gzip.compress(tar(chat))))),
    stored("7z in tar", lambda chat: tarred(("a.7z", sevenzipped(*seven(chat))))),
    stored("RAR in 7z", lambda chat: sevenzipped(("a.rar", rar(*seven(chat))))),
    stored("ZIP in RAR", lambda chat: rar(("a.zip", folder(chat)))),
    stored("ZIP in gzip", lambda chat: gzip.compress(folder(chat))),
    stored(
        "export beside its ZIP",
        lambda chat: zipped(("a.zip", folder(chat)), ("a/result.json", chat.json)),
        read=4,
    ),
    stored(
        "ZIP that was sent in the chat",
        lambda chat: zipped(
            ("result.json", chat.json), ("files/a.zip", encrypted(folder(chat), "Чат".encode()))
        ),
    ),
    stored("a program's source beside an export", with_source_code),
    stored(
        "documents beside an export", with_export(("letter.docx", zipped(("word/document.xml", b"<a/>"))))
    ),
    quarantined("bomb in bombs", nested_bomb, BIG),
    quarantined("bomb in a tar.xz", lambda chat: lzma.compress(tarred(("a.zip", zipped(zeros(chat))))), BIG),
    partly(
        "encrypted ZIP beside",
        with_export(("b.zip", encrypted(zipped(("b/result.json", b"{}")), b"b/r"))),
        "'b.zip/b/result.json' left out: it is encrypted",
    ),
    partly(
        "damaged ZIP beside",
        with_export(("b.zip", zipped(("b/result.json", b"{}"))[:50])),
        "'b.zip' left out: the ZIP archive is cut off",
    ),
    quarantined(
        "path too deep together",
        lambda chat: zipped(("1/2/3/4/a.zip", zipped(("5/6/7/8/result.json", chat.json)))),
        "too deep",
    ),
]

ARCHIVES: list[Case] = [*ZIPS, *NAMES, *TARS, *SINGLE, *SEVENS, *RARS, *NESTED]
