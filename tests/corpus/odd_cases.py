"""Archives that other tools open: odd headers, joined archives, bytes behind the end, exports in UTF-16."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import zlib
from collections.abc import Callable

from archive_cases import BEHIND, halves
from backports import zstd
from cases import Case, Chat, partly, quarantined, stored
from packing import plain_sevenzip, tarred, zipped
from raw_zip import DESCRIPTOR, UTF8, RawEntry, raw_zip
from tar_cases import tar_of
from zip_cases import folder


def one(name: bytes, **fields: object) -> Callable[[Chat], bytes]:
    """Return a ZIP of one export at ``name`` and a picture."""
    return lambda chat: raw_zip(
        RawEntry(name, chat.json, **fields),  # type: ignore[arg-type]
        RawEntry(b"a.jpg", b"a", extra=b"\x99\x99\xff\xff"),
    )


def unicode_name(raw: bytes, name: str) -> bytes:
    content = b"\1" + struct.pack("<L", zlib.crc32(raw)) + name.encode()
    return struct.pack("<2H", 0x7075, len(content)) + content


def folders(chat: Chat) -> bytes:
    """Return a ZIP whose folders are marked by their attributes only, of Unix and of DOS."""
    return raw_zip(
        RawEntry(b"Export", mode=0o40755, deflate=False),
        RawEntry(b"Export/photos", dos=0x10, mode=0),
        RawEntry(b"Export/result.json", chat.json),
    )


def damaged_list(chat: Chat) -> bytes:
    """Return a ZIP with a damaged name length of a picture in its list of contents."""
    data = bytearray(raw_zip(RawEntry(b"a.jpg", b"a"), RawEntry(b"b/result.json", chat.json)))
    data[data.index(b"PK\1\2") + 28] = 200
    return bytes(data)


def joined(pack: Callable[[bytes], bytes]) -> Callable[[Chat], bytes]:
    return lambda chat: b"".join(map(pack, halves(chat)))


def zip_of(content: bytes) -> bytes:
    return zipped(("a/result.json", content))


def cut_tar_gz(chat: Chat) -> bytes:
    noise = zlib.compress(bytes(range(256)) * 40)
    return gzip.compress(tarred(("result.json", chat.json), ("photos/a.jpg", noise)))[:-60]


def swapped(chat: Chat) -> bytes:
    """Return a tar.gz with a byte of a photo changed, so that its checksum is wrong."""
    data = gzip.compress(tarred(("result.json", chat.json), ("photos/a.jpg", b"photo")), 0)
    return data.replace(b"photo\0", b"phOto\0")


ODD_ZIPS = [
    stored("ZIP names with other slashes", one(b"a\\result.json", local_name=b"a/result.json")),
    stored(
        "ZIP names in two character sets",
        one("Чат/result.json".encode("cp866"), local_name="Чат/result.json".encode("cp1251")),
    ),
    stored("ZIP names of other lengths", one(b"result.json", local_name="Чат.json".encode())),
    stored("ZIP name marked as UTF-8 that is not", one("Чат.json".encode("cp866"), flags=UTF8)),
    stored(
        "ZIP name in a field of its own",
        one(b"??.json", extra=unicode_name(b"??.json", "Чат.json")),
    ),
    stored("ZIP with a cut extra field", one(b"result.json", extra=b"\x99\x99\xff\0abc")),
    stored("ZIP with a cut time field", one(b"result.json", extra=b"UT\x09\0\1\xa6\xce\x12")),
    stored("ZIP with a cut ZIP64 field", one(b"result.json", extra=b"\1\0\x10\0abc")),
    stored("ZIP with padding for extra fields", one(b"result.json", extra=bytes(7), local_extra=bytes(3))),
    stored("ZIP with data descriptors", one(b"result.json", flags=DESCRIPTOR)),
    stored("ZIP with data descriptors of stored members", one(b"a.json", flags=DESCRIPTOR, deflate=False)),
    stored("ZIP folders without a slash", folders),
    stored("two ZIPs in one file", joined(zip_of)),
    partly("ZIP behind a ZIP cut off", lambda c: folder(c)[:60] + folder(c), "its first 60 bytes were not"),
    partly("ZIP with a damaged list of contents", damaged_list, "list of contents is damaged"),
    stored("ZIP with megabytes of zeros behind it", lambda chat: folder(chat) + bytes(3 << 20)),
    stored("ZIP with 500 KB of white space behind it", lambda chat: folder(chat) + b" \r\n" * 170_000),
    partly("ZIP with text behind it", lambda chat: folder(chat) + b"--boundary--", BEHIND),
    partly(
        "7z with another behind it", joined(lambda json: plain_sevenzip(("result.json", json))), BEHIND, 1
    ),
    quarantined(
        "ZIP without its beginning", lambda chat: (bytes(99) + folder(chat))[150:], "beginning is missing"
    ),
]

STREAMS = [
    stored("gzip with padding behind it", lambda chat: gzip.compress(chat.json) + b"\x1a\x1a"),
    partly("gzip with text behind it", lambda chat: gzip.compress(chat.json) + b"--boundary--", BEHIND),
    partly("bzip2 with text behind it", lambda chat: bz2.compress(chat.json) + b"--boundary--", BEHIND),
    partly("xz with text behind it", lambda chat: lzma.compress(chat.json) + b"--boundary--", BEHIND),
    partly("zstd with text behind it", lambda chat: zstd.compress(chat.json) + b"--boundary--", BEHIND),
    stored("zstd behind a frame to skip", lambda c: b"\x5f\x2a\x4d\x18\2\0\0\0ab" + zstd.compress(c.json)),
    partly(
        "tar.gz with a ZIP behind it", lambda chat: gzip.compress(tar_of(chat.json)) + folder(chat), BEHIND
    ),
    stored("two tars in one file", joined(tar_of)),
    stored("two tars in one gzip", lambda chat: gzip.compress(joined(tar_of)(chat))),
    stored("two tar.gz in one file", joined(lambda json: gzip.compress(tar_of(json)))),
    stored("two tars with few zeros between", lambda c: tar_of(halves(c)[0])[:2048] + tar_of(halves(c)[1])),
    partly("tar with text behind it", lambda chat: tar_of(chat.json) + b"--boundary--", BEHIND),
    partly("tar.gz cut off in a photo", cut_tar_gz, "not read to its end: it is cut off"),
    partly("tar.gz with a damaged photo", swapped, "not read to its end: it is damaged"),
]


def wide(text: bytes, encoding: str = "utf-16") -> bytes:
    return text.decode().encode(encoding)


TEXTS = [
    stored("JSON in UTF-16", lambda chat: wide(chat.json)),
    stored("JSON in UTF-16 without a mark", lambda chat: wide(chat.json, "utf-16-be")),
    stored("HTML in UTF-16", lambda chat: wide(chat.html)),
    stored("JSON in UTF-16 in ZIP", lambda chat: zipped(("a/result.json", wide(chat.json)))),
    stored("JSON in UTF-16 in gzip", lambda chat: gzip.compress(wide(chat.json))),
    stored("HTML in UTF-16 in tar", lambda chat: tarred(("messages.html", wide(chat.html)))),
    partly(
        "damaged UTF-16 in ZIP",
        lambda c: zipped(("a/result.json", wide(c.json) + b"\0"), ("b/result.json", c.json)),
        "'a/result.json' left out: it is text in UTF-16 and damaged",
    ),
    quarantined(
        "other text in UTF-16", lambda _: wide(b"[.ShellClassInfo]"), "text in UTF-16, not an export"
    ),
    quarantined("nothing but zeros", lambda _: bytes(5000), "its beginning is empty"),
    partly(
        "a result.json without chats beside an export",
        lambda chat: zipped(("a/result.json", b'{"a": 1}'), ("b/result.json", chat.json)),
        "'a/result.json' left out: not a Telegram export",
    ),
    stored(
        "a page of an export under another name",
        lambda chat: zipped(("site/index.html", chat.html), ("site/about.html", b"<html>")),
    ),
]


def other(chat: Chat) -> Chat:
    """Return another chat, of the same ids and times."""
    found = Chat(chat.id - 1_000)
    found.name = "Other"
    return found


def beside(name: str, content: Callable[[Chat], bytes]) -> Callable[[Chat], bytes]:
    """Return a ZIP of two exports: one message as ``result.json``, and the same folder's file ``name``."""
    return lambda chat: zipped(("a/result.json", halves(chat)[0]), (f"a/{name}", content(chat)))


def second(chat: Chat) -> bytes:
    return halves(chat)[1]


RENAMED = [
    *(
        stored(f"an export called {name}", lambda chat, name=name: zipped((f"a/{name}", chat.json)))
        for name in ("result", "result.json.txt", "export.txt", "messages.html")
    ),
    *(
        stored(f"a page called {name}", lambda chat, name=name: zipped((f"a/{name}", chat.html)))
        for name in ("messages", "messages.html.bak", "page.xhtml", "result.json")
    ),
    stored("an export with a name of 255 bytes", lambda chat: zipped(("n" * 255, chat.json))),
    stored("an export called result.json.bak beside another", beside("result.json.bak", second)),
    stored("an archive beside an export", beside("b.json.gz", lambda chat: gzip.compress(second(chat)))),
    stored("an archive sent in a chat", beside("files/b.zip", lambda chat: zip_of(other(chat).json)), 1),
]
JOINED = [
    stored("exports in an array", lambda chat: b"[\n" + b",\n".join(halves(chat)) + b"]"),
    stored("exports in an array in UTF-16", lambda chat: wide(b"[" + b",".join(halves(chat)) + b"]")),
    stored("pages of one chat joined", lambda chat: chat.part(1) + chat.part(2)),
    stored("messages behind a page", lambda chat: chat.part(1) + chat.part(2).partition(b"</div></div>")[2]),
    stored("a page with a comment behind it", lambda chat: chat.html + b"<!-- saved from: x -->\n"),
    partly("pages of two chats joined", lambda chat: chat.html + other(chat).html, "bytes behind the end of"),
    partly("JSON behind a page", lambda chat: chat.html + other(chat).json, "not read: the "),
    partly(
        "a page behind JSON", lambda chat: chat.json + other(chat).html, "bytes behind the end of its JSON"
    ),
    partly(
        "JSON in CP1251",
        lambda chat: chat.json.replace(b'"Anna"', '"Анна"'.encode("cp1251")),
        "characters were replaced in 2 texts that are not UTF-8",
    ),
    partly(
        "HTML in CP1251",
        lambda chat: chat.part(1).replace(b"Anna", "Анна".encode("cp1251")),
        "characters were replaced in 1 text that is not UTF-8",
        1,
    ),
]

ODD: list[Case] = [*ODD_ZIPS, *STREAMS, *TEXTS, *RENAMED, *JOINED]
