"""Archives made to harm or to confuse, all in one batch with two good ones: each ends for itself."""

import bz2
import gzip
import io
import json
import os
import re
import stat
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

Batch: TypeAlias = tuple[Path, dict[str, dict[str, Any]], int]
EXPORT = b'{"name": "Chat", "type": "personal_chat", "id": 1, "messages": []}'
LIMITS = ["--max-bytes=50_000_000", "--max-entries=1_000", "--max-depth=8"]
MB = 1 << 20


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of a name given twice, which is what we want
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def good(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    """An archive whose export can be read beside whatever else is in it."""
    return zipped(*members, ("ok/result.json", EXPORT))


def special(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o777) << 16
    return info


def patched(data: bytes, name: bytes, local: tuple[int, bytes], central: tuple[int, bytes]) -> bytes:
    """Overwrite bytes at these offsets of the two headers of the member called ``name``."""
    patched = bytearray(data)
    headers = ((b"PK\x03\x04", 30, *local), (b"PK\x01\x02", 46, *central))
    for signature, name_at, offset, value in headers:
        start = -1
        while (start := patched.find(signature, start + 1)) >= 0:
            if patched[start + name_at :].startswith(name):
                patched[start + offset : start + offset + len(value)] = value
    return bytes(patched)


def encrypted(data: bytes, name: bytes) -> bytes:
    return patched(data, name, local=(6, b"\1"), central=(8, b"\1"))


def renamed(data: bytes, old: bytes, new: bytes) -> bytes:
    assert len(old) == len(new)
    return data.replace(old, new)


def damaged(data: bytes) -> bytes:
    at = data.index(EXPORT[:20])
    return data[:at] + b"X" + data[at + 1 :]


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("result.json")
        info.size = len(EXPORT)
        archive.addfile(info, io.BytesIO(EXPORT))
    return buffer.getvalue()


def overlapping() -> bytes:
    """Forty entries in the list of contents that all point at one deflated member of 2 MB."""
    data = zipped(("0/result.json", EXPORT + b" " * 2 * MB))
    start = data.index(b"PK\x01\x02")
    entry, end = data[start:-22], data[-22:]
    entries = b"".join(entry for _ in range(40))
    counts = struct.pack("<HHII", 40, 40, len(entries), start)
    return data[:start] + entries + end[:8] + counts + end[20:]


def claims_little() -> bytes:
    one = struct.pack("<I", 1)
    return patched(zipped(ZEROS), b"result.json", local=(22, one), central=(24, one))


def long_list() -> bytes:
    """A list of contents that claims 400 MB, which the (sparse) file really has."""
    return b"PK\x03\x04" + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 9, 9, 400 * MB, 0, 0)


WHOLE = zipped(("Чат/result.json", EXPORT), ("Чат/photos/a.jpg", b"a"))
STORED = zipped(("result.json", EXPORT), method=zipfile.ZIP_STORED)

TWO_STORED = zipped(("a/result.json", EXPORT), ("b/result.json", EXPORT), method=zipfile.ZIP_STORED)
ZEROS = ("result.json", EXPORT + bytes(60 * MB))
CLASHES = (
    "result.json",
    "result.json/result.json",
    "x/y/result.json",
    "x.json",
    "X.json/result.json",
    "x/y/result.json",
)

#: Name, content, status, what the reason must say, files extracted.
CASES: list[tuple[str, bytes | Callable[[], bytes], str, str, int]] = [
    ("good", WHOLE, "ok", "", 1),
    (
        "traversal",
        good(("../../evil/result.json", EXPORT)),
        "partial",
        "'../../evil/result.json' left out",
        1,
    ),
    ("traversal inside", good(("a/../../result.json", EXPORT)), "partial", "leads out", 1),
    ("backslash traversal", good(("..\\..\\result.json", EXPORT)), "partial", "leads out", 1),
    ("absolute", good(("/etc/evil/result.json", EXPORT)), "partial", "leads out", 1),
    ("drive", good(("C:\\evil\\result.json", EXPORT)), "partial", "leads out", 1),
    ("only traversal", zipped(("../result.json", EXPORT)), "quarantined", "leads out", 0),
    ("symlink", good((special("result.json", stat.S_IFLNK), b"/etc/passwd")), "partial", "not followed", 1),
    (
        "link folder",
        good((special("a", stat.S_IFLNK), b"/etc"), ("a/result.json", EXPORT)),
        "partial",
        "not followed",
        2,
    ),
    ("device", good((special("result.json", stat.S_IFBLK), b"")), "partial", "not followed", 1),
    ("fifo", zipped((special("result.json", stat.S_IFIFO), b"")), "quarantined", "not followed", 0),
    ("bomb", lambda: zipped(ZEROS), "quarantined", "over 50,000,000 bytes", 0),
    (
        "bomb of many",
        lambda: zipped(*((f"{n}/result.json", EXPORT + bytes(MB)) for n in range(60))),
        "quarantined",
        "over 50,000,000",
        0,
    ),
    ("bomb of bzip2", lambda: zipped(ZEROS, method=zipfile.ZIP_BZIP2), "quarantined", "ordinary ZIP", 0),
    ("bomb that overlaps", overlapping, "quarantined", "over 50,000,000", 0),
    ("bomb that claims little", claims_little, "quarantined", "damaged", 0),
    (
        "too many",
        lambda: zipped(*((f"{n}.jpg", b"") for n in range(1001))),
        "quarantined",
        "over 1,000 files",
        0,
    ),
    ("too deep", good(("x/" * 9 + "result.json", EXPORT)), "partial", "too deep", 1),
    (
        "endless path",
        good(("y" * 230 + ("/" + "y" * 230) * 7 + "/" * 9 + "z" * 300 + "/result.json", EXPORT)),
        "partial",
        "too deep",
        1,
    ),
    ("list of contents too long", long_list, "quarantined", "list of contents is over", 0),
    ("encrypted", encrypted(WHOLE, "Чат".encode()), "quarantined", "without a password", 0),
    (
        "encrypted in part",
        encrypted(good(("secret/result.json", EXPORT)), b"secret"),
        "partial",
        "without a password",
        1,
    ),
    ("cut off", WHOLE[: len(WHOLE) * 2 // 3], "quarantined", "cut off", 0),
    ("cut at the start", WHOLE[20:], "quarantined", "damaged", 0),
    ("damaged", damaged(STORED), "quarantined", "damaged (Bad CRC-32", 0),
    ("damaged in part", damaged(TWO_STORED), "partial", "'a/result.json' left out: it is damaged", 1),
    (
        "deflate64",
        patched(WHOLE, "Чат/r".encode(), local=(8, b"\x09\0"), central=(10, b"\x09\0")),
        "quarantined",
        "as an ordinary ZIP",
        0,
    ),
    (
        "bad UTF-8 name",
        renamed(WHOLE, "Чат".encode(), b"\xff\xfe\xff\xfe\xff\xfe"),
        "quarantined",
        "damaged",
        0,
    ),
    ("lzma", zipped(("result.json", EXPORT), method=zipfile.ZIP_LZMA), "quarantined", "ordinary ZIP", 0),
    ("trailing junk", WHOLE + b"\0" * 5000, "ok", "", 1),
    ("leading junk", b"#!/bin/sh\nexit\n" + WHOLE, "ok", "", 1),
    ("self-extracting", b"MZ" + bytes(3000) + WHOLE, "ok", "", 1),
    ("empty archive", zipped(), "quarantined", "nor anything else", 0),
    ("empty file", b"", "quarantined", "empty", 0),
    (
        "archive in archive",
        zipped(("chats.zip", WHOLE)),
        "quarantined",
        "holds archives, such as 'chats.zip'",
        0,
    ),
    (
        "other JSON",
        zipped(("a.json", b'{"dependencies": {}}'), ("b.json", b"")),
        "quarantined",
        "not a Telegram export",
        0,
    ),
    ("other bare JSON", b'{"dependencies": {}}', "quarantined", "not a Telegram export", 0),
    ("tar", tar(), "quarantined", "a tar archive", 0),
    ("gzip", gzip.compress(tar()), "quarantined", "a gzip file", 0),
    ("bzip2 file", bz2.compress(EXPORT), "quarantined", "a bzip2 file", 0),
    ("7z", b"7z\xbc\xaf\x27\x1c" + bytes(99), "quarantined", "a 7z archive", 0),
    ("RAR", b"Rar!\x1a\x07\x01\0" + bytes(99), "quarantined", "a RAR archive", 0),
    ("noise", bytes(range(255, 0, -1)) * 40, "quarantined", "neither an archive nor an export", 0),
    ("only the letters", b"PK", "quarantined", "cut off", 0),
    ("many of one name", lambda: zipped(*[("result.json", EXPORT)] * 300), "ok", "", 300),
    (
        "case",
        zipped(("a/Result.json", EXPORT), ("A/result.json", EXPORT), ("a/RESULT.JSON", EXPORT)),
        "ok",
        "",
        3,
    ),
    ("composition", zipped(("\u00e9/result.json", EXPORT), ("e\u0301/result.json", EXPORT)), "ok", "", 2),
    ("file and folder", zipped(*((name, EXPORT) for name in CLASHES)), "ok", "", 6),
    ("GBK name", renamed(zipped(("abcd/result.json", EXPORT)), b"abcd", "聊天".encode("gbk")), "ok", "", 1),
    (
        "CP1251 name",
        renamed(zipped(("abc/result.json", EXPORT)), b"abc", "Чат".encode("cp1251")),
        "ok",
        "",
        1,
    ),
    (
        "UTF-8 name unsaid",
        renamed(zipped(("abcdef/result.json", EXPORT)), b"abcdef", "Чат".encode()),
        "ok",
        "",
        1,
    ),
    ("control characters", zipped(("a\nb\x1b[31m/result.json", EXPORT)), "ok", "", 1),
    ("long name", zipped(("я" * 300 + "/" + "n" * 400 + ".json", EXPORT)), "ok", "", 1),
    ("zero-length export", zipped(("result.json", b"")), "quarantined", "not a Telegram export", 0),
]


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """One run over all cases: its output, the outcome by name, and its peak memory in bytes."""
    root = tmp_path_factory.mktemp("hostile")
    (root / "in").mkdir()
    for name, content, *_ in CASES:
        (root / "in" / name).write_bytes(data := content() if callable(content) else content)
        if content is long_list:
            os.truncate(root / "in" / name, 4)
            os.truncate(root / "in" / name, 400 * MB)
            with (root / "in" / name).open("ab") as file:
                file.write(data[4:])
    (root / "in" / "folder").mkdir()
    (root / "in" / "gone").symlink_to(root / "nowhere")
    (root / "in" / "zz good").write_bytes(WHOLE)
    code = (
        "import pathlib, sys; from flows.stages.extract import main; status = main();"
        "sys.stderr.write(pathlib.Path('/proc/self/status').read_text()); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, root / "in", root / "out", *LIMITS],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    files = {file["name"]: file for file in json.loads(done.stdout)["files"]}
    peak = re.search(rb"VmHWM:\s+(\d+) kB", done.stderr)
    assert peak, "no peak memory in /proc"
    return root / "out", files, int(peak[1]) * 1024


@pytest.mark.parametrize(
    ("name", "status", "reason", "written"),
    [(case[0], *case[2:]) for case in CASES],
    ids=[c[0] for c in CASES],
)
def test_each_ends_as_it_should(batch: Batch, name: str, status: str, reason: str, written: int) -> None:
    output, files, _ = batch
    file = files[name]
    assert file.get("status", "ok") == status, file
    assert reason in file.get("reason", ""), file
    extracted = [path for path in (output / name).rglob("*") if path.is_file()]
    assert len(extracted) == written
    assert all(path.read_bytes() == EXPORT for path in extracted)


def test_neighbours_of_bad_files_are_extracted(batch: Batch) -> None:
    output, files, _ = batch
    assert (output / "zz good" / "Чат" / "result.json").read_bytes() == EXPORT
    assert "zip it" in files["folder"]["reason"]
    assert "drop the file in again" in files["gone"]["reason"]


def test_nothing_is_written_outside_and_nothing_is_linked(
    batch: Batch,
) -> None:
    output, files, _ = batch
    assert {path.name for path in output.parent.iterdir()} == {"in", "out"}
    assert {path.name for path in output.iterdir()} <= {*files, "manifest.json", "media.jsonl"}
    for path in output.rglob("*"):
        assert path.is_dir() or stat.S_ISREG(path.lstat().st_mode)
        assert path.name.isprintable()


def test_memory_is_bounded(batch: Batch) -> None:
    assert batch[2] < 100 * MB


def test_names_are_read_as_they_were_meant(batch: Batch) -> None:
    output, _, _ = batch
    assert (output / "UTF-8 name unsaid" / "Чат" / "result.json").is_file()
    assert (output / "control characters" / "a_b_[31m" / "result.json").is_file()
