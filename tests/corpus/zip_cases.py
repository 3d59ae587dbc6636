"""ZIP archives: ordinary, broken and hostile ones, and with names as various packers write them."""

from __future__ import annotations

import io
import stat
import string
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache

import inflate64
from backports import zstd
from cases import Chat, partly, quarantined, stored
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
    zstd_frames,
)
from raw_zip import DESCRIPTOR, RawEntry, raw_zip

MB = 1 << 20
#: Options of extract for the corpus.
LIMITS = ["--max-bytes=50000000", "--max-entries=100000", "--max-depth=8", "--max-nesting=3"]
STORE = zipfile.ZIP_STORED
BIG = "over 50,000,000 bytes"


def deflated64(content: bytes) -> bytes:
    packer = inflate64.Deflater()
    return packer.deflate(content) + packer.flush()


def packed_by(method: int, pack: Callable[[bytes], bytes], content: bytes) -> bytes:
    return raw_zip(RawEntry(b"result.json", content, method=method, pack=pack))


def cut(chat: Chat, behind: bytes, flags: int = 0) -> bytes:
    """Return a ZIP that is cut off behind the name of a member."""
    members = (b"result.json", chat.json), (b"photos/a.jpg", b"a")
    data = raw_zip(*(RawEntry(name, content, flags=flags) for name, content in members))
    return data[: data.index(behind) + len(behind)]


def with_third_cut(chat: Chat, *, deflate: bool) -> bytes:
    """Return a ZIP that is cut off in the third message of its export."""
    content = chat.dump(chat.message(1), chat.message(2), chat.message(3, text=string.printable * 3))
    data = raw_zip(RawEntry(b"result.json", content, deflate=deflate))
    return data[: data.index(b"PK\1\2") - 150 * (not deflate) - 60 * deflate]


def folder(chat: Chat) -> bytes:
    """Return the ZIP that most people make: of the export's folder."""
    return zipped(("Чат/result.json", chat.json), ("Чат/photos/a.jpg", b"a"))


def with_export(*members: tuple[str | zipfile.ZipInfo, bytes]) -> Callable[[Chat], bytes]:
    """Return a ZIP of ``members`` and a valid export."""
    return lambda chat: zipped(*members, ("ok/result.json", chat.json))


def zeros(chat: Chat) -> tuple[str, bytes]:
    return "result.json", chat.json + bytes(60 * MB)


def named(raw: bytes) -> Callable[[Chat], bytes]:
    """Return a ZIP with a folder whose name is ``raw``, without a statement of the character set."""
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
    partly("traversal", with_export(("../../evil/result.json", b"{}")), "'../../evil/result.json' left out"),
    partly("traversal inside", with_export(("a/../../result.json", b"{}")), "leads out"),
    partly("backslash traversal", with_export(("..\\..\\result.json", b"{}")), "leads out"),
    stored("absolute", lambda chat: one_of(chat, "/home/a/result.json")),
    stored("drive", lambda chat: one_of(chat, "C:\\a\\result.json")),
    stored("members without a name", with_export((zipfile.ZipInfo(""), b"junk"), ("/", b""), (".", b"junk"))),
    stored("only an export without a name", lambda chat: zipped((zipfile.ZipInfo(""), chat.json))),
    quarantined("only traversal", lambda chat: one_of(chat, "../result.json"), "leads out"),
    partly("symlink", with_export((special("result.json", stat.S_IFLNK), b"/etc/passwd")), "not followed"),
    stored(
        "symlink within it",
        with_export(
            (special("a/messages.html", stat.S_IFLNK), b"../ok/result.json"),
            (special("b", stat.S_IFLNK), b"ok"),
        ),
        read=4,
    ),
    partly(
        "link folder", with_export((special("a", stat.S_IFLNK), b"/etc"), ("a/b.jpg", b"")), "not followed"
    ),
    partly("device", with_export((special("result.json", stat.S_IFBLK), b"")), "not followed"),
    quarantined("fifo", lambda _: zipped((special("result.json", stat.S_IFIFO), b"")), "not followed"),
    partly("too deep", with_export(("x/" * 9 + "result.json", b"{}")), "too deep"),
    partly(
        "endless path",
        with_export(("y" * 230 + ("/" + "y" * 230) * 7 + "/" * 9 + "z" * 300 + "/result.json", b"{}")),
        "too deep",
    ),
    quarantined("bomb", lambda chat: zipped(zeros(chat)), BIG),
    quarantined(
        "bomb of many",
        lambda chat: zipped(*((f"{n}/result.json", chat.json.ljust(MB, b"\0")) for n in range(60))),
        BIG,
    ),
    quarantined("bomb of bzip2", lambda chat: zipped(zeros(chat), method=zipfile.ZIP_BZIP2), BIG),
    quarantined("bomb of LZMA", lambda chat: zipped(zeros(chat), method=zipfile.ZIP_LZMA), BIG),
    quarantined("bomb that overlaps", lambda chat: overlapping(chat.json), BIG),
    quarantined(
        "bomb that claims little",
        lambda chat: patched(zipped(zeros(chat)), b"result.json", (22, b"\1\0\0\0"), (24, b"\1\0\0\0")),
        BIG,
    ),
    quarantined("100,001 entries", many(100_001), "over 100,000 files"),
    quarantined("list of contents too long", lambda _: long_list(), "list of contents is over"),
    quarantined("encrypted", lambda chat: encrypted(folder(chat), "Чат".encode()), "without a password"),
    partly(
        "encrypted in part",
        lambda chat: encrypted(with_export(("secret/result.json", b"{}"))(chat), b"secret"),
        "'secret/result.json' left out: it is encrypted",
    ),
    quarantined("cut off", lambda chat: folder(chat)[:200], "cut off"),
    partly(
        "cut off behind the export", lambda chat: cut(chat, b"photos/a.jpg"), "list of contents is missing"
    ),
    partly("cut off behind a described export", lambda c: cut(c, b"photos/a.jpg", DESCRIPTOR), "is cut off"),
    partly("cut off in its list", lambda chat: folder(chat)[:-60], "list of contents is missing"),
    partly("cut off in an export", lambda chat: with_third_cut(chat, deflate=True), "cut off in the middle"),
    partly("cut off in a stored export", lambda c: with_third_cut(c, deflate=False), "cut off in the middle"),
    quarantined("cut at the start", lambda chat: folder(chat)[20:], "damaged"),
    quarantined("first of several disks", lambda chat: b"PK\x07\x08" + folder(chat)[:200], "join the parts"),
    quarantined("last of several disks", last_disk, "join the parts"),
    quarantined(
        "damaged",
        lambda chat: damaged(chat, zipped(("a/result.json", chat.json), method=STORE)),
        "wrong checksum",
    ),
    partly(
        "damaged in part",
        lambda chat: damaged(
            chat, zipped(("a/result.json", chat.json), ("b/result.json", chat.json), method=STORE)
        ),
        "'a/result.json' left out: it is damaged",
    ),
    stored("deflate64", lambda chat: packed_by(9, deflated64, chat.json * 400), rows=2, read=800),
    quarantined("deflate64 bomb", lambda chat: packed_by(9, deflated64, zeros(chat)[1]), BIG),
    quarantined(
        "zstd that is none", lambda chat: with_method(folder(chat), "Чат/r".encode(), 93), "it is damaged"
    ),
    stored("zstd in ZIP", lambda chat: packed_by(93, zstd.compress, chat.json)),
    stored("zstd of several frames in ZIP", lambda chat: packed_by(93, zstd_frames, chat.json)),
    quarantined("zstd bomb in ZIP", lambda chat: packed_by(93, zstd.compress, zeros(chat)[1]), BIG),
    quarantined(
        "xz in ZIP", lambda chat: with_method(folder(chat), "Чат/r".encode(), 95), "as an ordinary ZIP"
    ),
    stored("an export among metadata", lambda c: zipped(("__MACOSX/result.json", c.json), ("._a", b"\0\5"))),
    quarantined(
        "LZMA in ZIP with a vast dictionary",
        lambda chat: zipped(("result.json", chat.json), method=zipfile.ZIP_LZMA).replace(
            b"\5\0\x5d\0\0\x80\0", b"\5\0\x5d\0\0\0\x7f"
        ),
        "dictionary of over 256 MB",
    ),
    stored(
        "invalid UTF-8 name",
        lambda chat: folder(chat).replace("Чат".encode(), b"\xff\xfe\xff\xfe\xff\xfe"),
    ),
    quarantined("empty archive", lambda _: zipped(), "it is empty"),
    quarantined("zero-length export", lambda _: zipped(("result.json", b"")), "it is empty"),
    quarantined(
        "other JSON",
        lambda _: zipped(("a.json", b'{"dependencies": {}}'), ("b.json", b"")),
        "not a Telegram export",
    ),
    quarantined(
        "pictures",
        lambda _: zipped(("a.jpg", b"1"), ("b.jpg", b"2")),
        "among its 2 files, for example 'a.jpg'",
    ),
]

NAMES = [
    stored("name in unmarked UTF-8", named("Чат".encode())),
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
