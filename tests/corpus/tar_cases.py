"""Tars and compressed tars: ordinary, broken and hostile ones."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable

from backports import zstd
from cases import Chat, partly, quarantined, stored
from packing import (
    sparse,
    tar_header,
    tar_special,
    tarred,
)
from zip_cases import BIG, MB, zeros


def tar(chat: Chat) -> bytes:
    return tarred(("Чат/result.json", chat.json), ("Чат/photos/a.jpg", b"a"))


def tar_with_export(*members: tuple[str, bytes] | tarfile.TarInfo) -> Callable[[Chat], bytes]:
    return lambda chat: tarred(*members, ("ok/result.json", chat.json))


def linked(kind: bytes, target: str) -> Callable[[Chat], bytes]:
    """Return a tar of a file without a name of an export, and links to it in two folders."""
    return lambda chat: tarred(
        ("blob", chat.json),
        tar_special("a/result.json", kind, target),
        tar_special("b/result.json", tarfile.SYMTYPE, "../a/result.json"),
    )


def tar_of(content: bytes) -> bytes:
    return tarred(("a/result.json", content), format=tarfile.GNU_FORMAT)


def broken_in_the_middle(chat: Chat) -> bytes:
    data = bytearray(
        tarred(("a/result.json", chat.json), ("b/result.json", chat.json), format=tarfile.GNU_FORMAT)
    )
    data[data.index(b"b/result.json") + 148] ^= 1  # in the checksum of the second header
    return bytes(data)


TARS = [
    stored("tar", tar),
    stored("tar.gz", lambda chat: gzip.compress(tar(chat))),
    stored("tar.bz2", lambda chat: bz2.compress(tar(chat))),
    stored("tar.xz", lambda chat: lzma.compress(tar(chat))),
    stored("tar.zst", lambda chat: zstd.compress(tar(chat))),
    stored("tar of 1990", lambda chat: tarred(("result.json", chat.json), format=tarfile.USTAR_FORMAT)),
    stored("tar with a long name", lambda chat: tarred(("n" * 300 + "/result.json", chat.json))),
    partly("tar traversal", tar_with_export(("../../evil/result.json", b"{}")), "leads out"),
    stored("tar absolute", lambda chat: tarred(("/home/a/result.json", chat.json))),
    partly(
        "tar symlink",
        tar_with_export(tar_special("result.json", tarfile.SYMTYPE, "/etc/passwd")),
        "not followed",
    ),
    stored("tar hard link", linked(tarfile.LNKTYPE, "blob"), read=6),
    stored("tar symlink within it", linked(tarfile.SYMTYPE, "../blob"), read=6),
    stored("tar symlink to a folder", tar_with_export(tar_special("latest", tarfile.SYMTYPE, "ok"))),
    partly(
        "tar hard link to nothing",
        tar_with_export(tar_special("result.json", tarfile.LNKTYPE, "no/result.json")),
        "not followed",
    ),
    partly(
        "tar symlinks in a circle",
        tar_with_export(
            tar_special("a.json", tarfile.SYMTYPE, "b.json"), tar_special("b.json", tarfile.SYMTYPE, "a.json")
        ),
        "'a.json' and 1 more left out: devices, and links to what is not in the archive",
    ),
    quarantined(
        "tar bomb of links",
        lambda chat: gzip.compress(
            tarred(
                ("0.json", chat.json + b" " * MB),
                *(tar_special(f"{n}.json", tarfile.LNKTYPE, "0.json") for n in range(1, 60)),
            )
        ),
        BIG,
    ),
    partly("tar device", tar_with_export(tar_special("result.json", tarfile.BLKTYPE)), "not followed"),
    quarantined("tar bomb", lambda chat: gzip.compress(tarred(zeros(chat))), BIG),
    quarantined("tar bomb of media", lambda _: gzip.compress(tarred(("a.jpg", bytes(60 * MB)))), BIG),
    quarantined("tar bomb of bzip2", lambda chat: bz2.compress(tarred(zeros(chat))), BIG),
    quarantined("tar bomb of zstd", lambda chat: zstd.compress(tarred(zeros(chat))), BIG),
    quarantined("tar bomb of a hole", lambda _: sparse("messages.html", 1 << 40), BIG),
    quarantined(
        "tar with a name of 1 GB",
        lambda _: tar_header("x", tarfile.GNUTYPE_LONGNAME, 1 << 30) + bytes(1024),
        "a header too long",
    ),
    quarantined(
        "tar that claims too much",
        lambda _: tar_header("result.json", tarfile.REGTYPE, 1 << 40) + bytes(1024),
        "damaged",
    ),
    quarantined("tar cut off", lambda chat: tar(chat)[:700], "damaged"),
    partly("tar.gz cut off", lambda chat: gzip.compress(tar(chat))[:-30], "damaged"),
    partly("tar broken in the middle", broken_in_the_middle, "a header in the middle"),
    partly("tar cut off in an export", lambda chat: tar_of(chat.json)[:880], "not read to its end: it is", 1),
    partly(
        "tar without its end", lambda chat: tar_of(chat.json)[:1024], "not read to its end: it is cut off"
    ),
    quarantined("tar of nothing", lambda _: tarred(("a/", b"")), "not a Telegram export"),
]
