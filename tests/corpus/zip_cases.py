"""ZIP archives: as people pack them, gone wrong, and made to harm; and names as any packer writes them."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache

from cases import Chat, partly, refused, stored
from packing import (
    encrypted,
    long_list,
    overlapping,
    patched,
    renamed,
    special,
    tarred,
    with_method,
    zip64,
    zipped,
)

MB = 1 << 20
#: What the corpus is extracted with.
LIMITS = ["--max-bytes=50000000", "--max-entries=100000", "--max-depth=8", "--max-nesting=3"]
STORE = zipfile.ZIP_STORED
BIG = "over 50,000,000 bytes"


def folder(chat: Chat) -> bytes:
    """The ZIP that most people make."""
    return zipped(("Чат/result.json", chat.json), ("Чат/photos/a.jpg", b"a"))


def beside(*members: tuple[str | zipfile.ZipInfo, bytes]) -> Callable[[Chat], bytes]:
    """An export that can be read beside whatever else is in its archive."""
    return lambda chat: zipped(*members, ("ok/result.json", chat.json))


def zeros(chat: Chat) -> tuple[str, bytes]:
    return "result.json", chat.json + bytes(60 * MB)


def named(raw: bytes) -> Callable[[Chat], bytes]:
    """A folder whose name is these bytes, in no character set that the archive tells."""
    return lambda chat: renamed(zipped(("x" * len(raw) + "/result.json", chat.json)), raw)


def damaged(chat: Chat, data: bytes) -> bytes:
    at = data.index(chat.json[:20])
    return data[:at] + b"X" + data[at + 1 :]


def last_disk(chat: Chat) -> bytes:
    data = folder(chat)
    return data[:-18] + b"\2\0\2\0" + data[-14:]


@cache
def _pictures() -> bytes:
    return zipped(*((f"{n}.jpg", b"") for n in range(99_999)), method=STORE)


def many(entries: int) -> Callable[[Chat], bytes]:
    def make(chat: Chat) -> bytes:
        buffer = io.BytesIO(_pictures())
        with zipfile.ZipFile(buffer, "a") as archive:
            for number in range(entries - 100_000):
                archive.writestr(f"more{number}.jpg", b"")
            archive.writestr("ok/result.json", chat.json)
        return buffer.getvalue()

    return make


def one_of(chat: Chat, *names: str) -> bytes:
    return zipped(*((name, chat.json) for name in names))


CLASHES = (
    "result.json",
    "result.json/result.json",
    "x/y/result.json",
    "x.json",
    "X.json/result.json",
    "x/y/result.json",
)
ZIPS = [
    stored("folder", folder),
    stored("only files", lambda chat: zipped(("result.json", chat.json))),
    stored("ZIP64", lambda chat: zip64("a/result.json", chat.json)),
    stored("bzip2 in ZIP", lambda chat: zipped(("result.json", chat.json), method=zipfile.ZIP_BZIP2)),
    stored("LZMA in ZIP", lambda chat: zipped(("result.json", chat.json), method=zipfile.ZIP_LZMA)),
    stored("trailing junk", lambda chat: folder(chat) + b"\0" * 5000),
    stored("leading junk", lambda chat: b"#!/bin/sh\nexit\n" + folder(chat)),
    stored("self-extracting", lambda chat: b"MZ" + bytes(3000) + folder(chat)),
    stored("100,000 entries", many(100_000)),
    stored("many of one name", lambda chat: zipped(*[("result.json", chat.json)] * 300), read=600),
    stored("case", lambda chat: one_of(chat, "a/Result.json", "A/result.json", "a/RESULT.JSON"), read=6),
    stored("composition", lambda chat: one_of(chat, "\u00e9/result.json", "e\u0301/result.json"), read=4),
    stored("file and folder", lambda chat: one_of(chat, *CLASHES), read=12),
    partly("traversal", beside(("../../evil/result.json", b"{}")), "'../../evil/result.json' left out"),
    partly("traversal inside", beside(("a/../../result.json", b"{}")), "leads out"),
    partly("backslash traversal", beside(("..\\..\\result.json", b"{}")), "leads out"),
    partly("absolute", beside(("/etc/evil/result.json", b"{}")), "leads out"),
    partly("drive", beside(("C:\\evil\\result.json", b"{}")), "leads out"),
    refused("only traversal", lambda chat: one_of(chat, "../result.json"), "leads out"),
    partly("symlink", beside((special("result.json", stat.S_IFLNK), b"/etc/passwd")), "not followed"),
    partly("link folder", beside((special("a", stat.S_IFLNK), b"/etc"), ("a/b.jpg", b"")), "not followed"),
    partly("device", beside((special("result.json", stat.S_IFBLK), b"")), "not followed"),
    refused("fifo", lambda _: zipped((special("result.json", stat.S_IFIFO), b"")), "not followed"),
    partly("too deep", beside(("x/" * 9 + "result.json", b"{}")), "too deep"),
    partly(
        "endless path",
        beside(("y" * 230 + ("/" + "y" * 230) * 7 + "/" * 9 + "z" * 300 + "/result.json", b"{}")),
        "too deep",
    ),
    refused("bomb", lambda chat: zipped(zeros(chat)), BIG),
    refused(
        "bomb of many",
        lambda chat: zipped(*((f"{n}/result.json", zeros(chat)[1][:MB]) for n in range(60))),
        BIG,
    ),
    refused("bomb of bzip2", lambda chat: zipped(zeros(chat), method=zipfile.ZIP_BZIP2), BIG),
    refused("bomb of LZMA", lambda chat: zipped(zeros(chat), method=zipfile.ZIP_LZMA), BIG),
    refused("bomb that overlaps", lambda chat: overlapping(chat.json), BIG),
    refused(
        "bomb that claims little",
        lambda chat: patched(zipped(zeros(chat)), b"result.json", (22, b"\1\0\0\0"), (24, b"\1\0\0\0")),
        "damaged",
    ),
    refused("100,001 entries", many(100_001), "over 100,000 files"),
    refused("list of contents too long", lambda _: long_list(), "list of contents is over"),
    refused("encrypted", lambda chat: encrypted(folder(chat), "Чат".encode()), "without a password"),
    partly(
        "encrypted in part",
        lambda chat: encrypted(beside(("secret/result.json", b"{}"))(chat), b"secret"),
        "'secret/result.json' left out: it is encrypted",
    ),
    refused("cut off", lambda chat: folder(chat)[:200], "cut off"),
    refused("cut at the start", lambda chat: folder(chat)[20:], "damaged"),
    refused("first of several disks", lambda chat: b"PK\x07\x08" + folder(chat)[:200], "join the parts"),
    refused("last of several disks", last_disk, "join the parts"),
    refused(
        "damaged",
        lambda chat: damaged(chat, zipped(("a/result.json", chat.json), method=STORE)),
        "Bad CRC-32",
    ),
    partly(
        "damaged in part",
        lambda chat: damaged(
            chat, zipped(("a/result.json", chat.json), ("b/result.json", chat.json), method=STORE)
        ),
        "'a/result.json' left out: it is damaged",
    ),
    refused("deflate64", lambda chat: with_method(folder(chat), "Чат/r".encode(), 9), "as an ordinary ZIP"),
    refused(
        "zstd in ZIP", lambda chat: with_method(folder(chat), "Чат/r".encode(), 93), "as an ordinary ZIP"
    ),
    refused(
        "LZMA in ZIP with a vast dictionary",
        lambda chat: zipped(("result.json", chat.json), method=zipfile.ZIP_LZMA).replace(
            b"\5\0\x5d\0\0\x80\0", b"\5\0\x5d\0\0\0\x7f"
        ),
        "dictionary of over 256 MB",
    ),
    refused(
        "UTF-8 name that is none",
        lambda chat: folder(chat).replace("Чат".encode(), b"\xff\xfe\xff\xfe\xff\xfe"),
        "damaged",
    ),
    refused("empty archive", lambda _: zipped(), "nor anything else"),
    refused("zero-length export", lambda _: zipped(("result.json", b"")), "not a Telegram export"),
    refused(
        "other JSON",
        lambda _: zipped(("a.json", b'{"dependencies": {}}'), ("b.json", b"")),
        "not a Telegram export",
    ),
    refused(
        "pictures", lambda _: zipped(("a.jpg", b"1"), ("b.jpg", b"2")), "among its 2 files, such as 'a.jpg'"
    ),
]

NAMES = [
    stored("name in UTF-8 unsaid", named("Чат".encode())),
    stored("name in CP437", named("Über".encode("cp437"))),
    stored("name in CP866", named("Чат".encode("cp866"))),
    stored("name in CP1251", named("Чат".encode("cp1251"))),
    stored("name in GBK", named("聊天".encode("gbk"))),
    stored("name in GBK with a backslash in it", named("聊誠".encode("gbk"))),
    stored("name of control characters", lambda chat: one_of(chat, "a\nb\x1b[31m/result.json")),
    stored("name of 255 bytes", lambda chat: one_of(chat, "n" * 250 + ".json")),
    stored("names too long", lambda chat: one_of(chat, "я" * 300 + "/" + "n" * 400 + ".json")),
    stored(
        "tar name in CP1251",
        lambda chat: tarred(("\udcd7\udce0\udcf2/result.json", chat.json), format=tarfile.GNU_FORMAT),
    ),
]
