"""The extract stage as a process: archives within archives, parts of split archives, damaged members."""

import gzip
import random
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from extracted import EXPORT, damaged, extract, files_in, pack, stage
from packing import plain_sevenzip, rar, sevenzipped, tarred

from flows.stages.extract.archives import rar_tools


def test_an_archive_without_exports_is_media_and_one_with_exports_is_not(tmp_path: Path) -> None:
    inner = pack(tmp_path / "inner.zip", **{"result.json": EXPORT, "photos/a.jpg": b"jpg"}).read_bytes()
    letter = pack(tmp_path / "letter.docx", **{"word/document.xml": b"<a/>", "b.jpg": b""}).read_bytes()
    pack(tmp_path / "in" / "000001-a.zip", **{"chats.zip": inner, "letter.docx": letter})
    (file,) = extract(tmp_path / "in", tmp_path / "out", "--media")["files"]
    assert (file.get("status", "ok"), file["counts"]["media"]) == ("ok", 2)
    assert files_in(tmp_path / "out" / "000001-a.zip") == {
        "chats.zip/result.json": EXPORT,
        "chats.zip/photos/a.jpg": b"jpg",
        "letter.docx": letter,
    }


def test_parts_of_split_archives_are_named_as_such(tmp_path: Path) -> None:
    """Their names show it; a file that is whole is read whatever its name is."""
    source = tmp_path / "in"
    noise = random.Random(1).randbytes(3000)
    whole = pack(source / "000001-whole.zip.001", **{"result.json": EXPORT, "a.jpg": noise}).read_bytes()
    packed = gzip.compress(tarred(("result.json", EXPORT), ("a.jpg", noise)))
    for name, content in [
        ("000002-chat.zip.001", whole[:900]),
        ("000003-chat.zip.002", whole[900:1800]),
        ("000004-chat.zip.003", whole[1800:]),
        ("000005-chat.tgz.aa", packed[:2000]),
        ("000006-chat.tar.gz.ab", packed[2000:]),
        ("000007-xaa", plain_sevenzip(("result.json", EXPORT))[:40]),
        ("000008-chat.z01", b"PK\x07\x08" + whole[:900]),
        ("000009-chat.tar.gz", packed[:2000]),
        ("000010-chat.zip", whole[:900]),
    ]:
        (source / name).write_bytes(content)
    outcomes = {file["name"][:6]: file for file in extract(source, tmp_path / "out")["files"]}
    assert outcomes["000001"].get("status", "ok") == "ok"
    for number in range(2, 9):
        outcome = outcomes[f"{number:06d}"]
        assert outcome["status"] == "quarantined"
        assert outcome["reason"].startswith("it is one part of a split archive: join the parts")
    assert [outcomes[name]["status"] for name in ("000009", "000010")] == ["partial", "partial"]
    assert "split" not in outcomes["000009"]["reason"] + outcomes["000010"]["reason"]


def test_a_program_that_cannot_unpack_a_rar_is_not_used(tmp_path: Path) -> None:
    """As unrar-free, which has other options, unar with some archives (it writes why), 7z without RAR."""
    programs, source = tmp_path / "bin", tmp_path / "in"
    for folder in (programs, source):
        folder.mkdir()
    (tmp_path / "member").write_bytes(EXPORT)
    for name, unpacking in [
        ("unrar", "exit 1"),
        ("unar", '[ "$1" = -version ] || echo Archive parsing failed!'),
        ("7z", '[ "$1" = i ] || exit 2'),
        ("bsdtar", f'[ "$1" = --version ] || exec {shutil.which("cat")} "{tmp_path}/member"'),
    ]:
        (programs / name).write_text(f"#!/bin/sh\n{unpacking}\n")
        (programs / name).chmod(0o700)
    (source / "000001-a.rar").write_bytes(rar(("a/result.json", EXPORT), method=3))
    done = stage(source, tmp_path / "out", env={"PATH": str(programs)})
    assert done.returncode == 0, done.stderr.decode()
    assert files_in(tmp_path / "out" / "000001-a.rar") == {"a/result.json": EXPORT}
    unar, bsdtar = rar_tools.TOOLS[1], rar_tools.TOOLS[4]
    assert unar.open_cmdline(None, "a.rar", "a [1]/b")[-2:] == ["a.rar", "a [[]1]/b"]
    assert bsdtar.open_cmdline(None, "a.rar", "-a [1]/b?")[-4:] == ["-f", "a.rar", "--", "-a [[]1]/b[?]"]


def test_a_damaged_member_that_may_be_an_export_or_archive_is_named(tmp_path: Path) -> None:
    """By its name, for its beginning cannot be read; a photo costs nothing."""
    noise = random.Random(7).randbytes(60_000)
    inner = pack(tmp_path / "older.zip", **{"result.json": EXPORT}).read_bytes()
    seven = sevenzipped(("E/result.json", EXPORT), ("E/older.zip", inner + noise))
    source = tmp_path / "source"
    source.mkdir()
    (source / "000001-seven.7z").write_bytes(damaged(seven, len(seven) - 20_000))
    for number, name in ((2, "chat.txt"), (3, "photo.jpg")):
        plain = source / f"00000{number}-{name}.zip"
        with zipfile.ZipFile(plain, "w") as archive:
            archive.writestr("E/result.json", EXPORT)
            archive.writestr(f"F/{name}", EXPORT + noise[:100])
        content = plain.read_bytes()
        plain.write_bytes(damaged(content, content.index(noise[:50])))
    found = extract(source, tmp_path / "output")["files"]
    assert [file["name"][:6] for file in found] == ["000001", "000002", "000003"]
    assert "'E/older.zip' left out: " in found[0]["reason"]
    assert "'F/chat.txt' left out: " in found[1]["reason"]
    assert found[2].get("reason") is None


@pytest.mark.parametrize("name", ["result.json", "E/messages2.html", "E/result (1).json"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "it is empty"), (b" \r\n", "it is empty"), (bytes(5000), "its beginning is empty (only zeros)")],
    ids=["empty", "blank", "zeros"],
)
def test_an_empty_member_with_the_name_of_an_export_is_named_as_such(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    """As after a full disk or a power failure while it was exported."""
    pack(tmp_path / "in" / "000001-a.zip", **{"F/result.json": EXPORT, name: content, "notes.json": b""})
    pack(tmp_path / "in" / "000002-alone.zip", **{name: content})
    first, alone = extract(tmp_path / "in", tmp_path / "out")["files"]
    assert (first["status"], alone["status"]) == ("partial", "quarantined")
    assert first["reason"] == alone["reason"]
    assert first["reason"].startswith(f"'{name}' left out: {reason}, as after a")


def test_a_page_with_long_styles_in_its_head_is_found(tmp_path: Path) -> None:
    chat = b"<!DOCTYPE html>\n<html><style>" + b"a" * 200_000 + b'</style><div class="page_body chat_page">'
    other = chat.replace(b"chat_page", b"list_page")
    pack(
        tmp_path / "in" / "000001-a.zip", **{"E/result.json": EXPORT, "F/Data.html": chat, "F/x.html": other}
    )
    (file,) = extract(tmp_path / "in", tmp_path / "out")["files"]
    assert (file.get("reason"), file["counts"]["members"], file["counts"]["media"]) == (None, 2, 1)
    assert files_in(tmp_path / "out" / "000001-a.zip") == {"E/result.json": EXPORT, "F/Data.html": chat}


def left_out(source: Path, output: Path, **members: bytes) -> tuple[int, str]:
    """Extract an archive of these members; return the number of members left out, and the reason."""
    pack(source / "000001-a.zip", **members)
    (file,) = extract(source, output)["files"]
    reason = file.get("reason", "")
    more = re.findall(r"'[^']*'(?: and (\d+) more)? left out: ", reason)
    return len(more) + sum(int(number or 0) for number in more), reason


def packed_other(path: Path) -> bytes:
    """Return a ZIP archive of an export, over 3,000 bytes long."""
    noise = random.Random(1).randbytes(3000)
    return pack(path, **{"result.json": EXPORT.replace(b"1", b"2"), "a.jpg": noise}).read_bytes()


@pytest.mark.parametrize(
    "names",
    [
        ["chat.zip.001", "chat.zip.002", "chat.zip.003"],
        ["chat.z01", "chat.z02", "chat.zip"],
        ["chat.001", "chat.002", "chat.003"],
        ["chat.tar.gz.aa", "chat.tar.gz.ab", "chat.tar.gz.ac"],
    ],
    ids=lambda names: str(names[0]),
)
def test_parts_of_split_archives_in_an_archive_are_named(names: list[str], tmp_path: Path) -> None:
    """Each of them is, and no other file (``log.001``)."""
    whole = packed_other(tmp_path / "other.zip")
    members = dict(zip(names, [whole[:900], whole[900:1800], whole[1800:]], strict=True))
    members |= {"E/result.json": EXPORT, "log.001": b"started"}
    number, reason = left_out(tmp_path / "in", tmp_path / "out", **members)
    assert number == 3, reason
    assert "it is one part of a split archive: join the parts" in reason
    assert "log" not in reason


def test_the_parts_of_a_split_export_in_an_archive_are_named(tmp_path: Path) -> None:
    """The first is read, as far as it goes."""
    export = EXPORT[:-1] + b" " * 100
    parts = {"F/result.json.aa": export[:-50], "F/result.json.ab": export[-50:]}
    number, reason = left_out(tmp_path / "in", tmp_path / "out", **{"E/result.json": EXPORT}, **parts)
    assert "'F/result.json.ab' left out: it is one part of a split archive" in reason
    assert number == 1


@pytest.mark.parametrize("name", ["E/backup/other.zip", "E/other.exe", "other.zip", "E/photos.zip"])
def test_an_archive_outside_the_folders_for_media_is_read(name: str, tmp_path: Path) -> None:
    """Also behind the program that unpacks it."""
    inner = b"MZ" + bytes(3000) + packed_other(tmp_path / "other.zip")
    pack(tmp_path / "in" / "000001-a.zip", **{"E/result.json": EXPORT, name: inner})
    (file,) = extract(tmp_path / "in", tmp_path / "out")["files"]
    assert file["counts"]["members"] == 2
    assert "reason" not in file


@pytest.mark.parametrize("folder", ["E/files", "E/chats/chat_01/files", "E/files/2024"])
def test_what_people_sent_each_other_is_media(folder: str, tmp_path: Path) -> None:
    inner = packed_other(tmp_path / "other.zip")
    pack(tmp_path / "in" / "000001-a.zip", **{"E/result.json": EXPORT, f"{folder}/other.zip": inner})
    (file,) = extract(tmp_path / "in", tmp_path / "out")["files"]
    assert (file["counts"]["members"], file["counts"]["media"]) == (1, 1)
    assert "reason" not in file


def test_an_archive_of_a_format_that_is_not_read_is_named(tmp_path: Path) -> None:
    packed = b"\x04\x22\x4d\x18" + EXPORT
    members = {"result.json": EXPORT, "a.tar.lz4": packed}
    number, reason = left_out(tmp_path / "in", tmp_path / "out", **members)
    assert (number, "'a.tar.lz4' left out: an archive of a format that is not read" in reason) == (1, True)


def test_json_with_messages_of_no_chat_is_named(tmp_path: Path) -> None:
    """As jq cuts them out of an export; but not what people sent each other."""
    messages = b'[{"id": 1, "type": "message", "date_unixtime": "1", "text": "x"}]'
    members = {"E/result.json": EXPORT, "Olga.json": messages, "log.jsonl": messages[1:-1]}
    members |= {"E/files/sent.json": messages, "E/files/result.json": b"{}", "other.json": b'{"a": "b"}'}
    members |= {"F/sticker.tgs": gzip.compress(b'{"tgs": 1}'), "F/result.json.gz": gzip.compress(b"{}")}
    number, reason = left_out(tmp_path / "in", tmp_path / "out", **members, **{"result2.json": b"{}"})
    assert number == 4
    assert "'Olga.json' and 1 more left out: it has messages but does not say of which chat" in reason
    assert "'result2.json' and 1 more left out: not a Telegram export" in reason


def test_a_page_in_the_format_of_a_browser_is_named_only_if_it_is_of_an_export(tmp_path: Path) -> None:
    head = b"From: <Saved by Blink>\r\nMIME-Version: 1.0\r\n\r\n"
    chat = b'<div class=3D"page_body chat_page">'
    members = {
        "E/result.json": EXPORT,
        "F/messages.mhtml": head + chat,
        "article.mhtml": head + b"<p>news</p>",
    }
    members |= {"G/Chat.webarchive": b"bplist00" + chat, "E/files/sent.mht": head + chat}
    number, reason = left_out(tmp_path / "in", tmp_path / "out", **members)
    assert number == 2
    assert "' and 1 more left out: a page that a browser saved as one file" in reason


def test_a_program_is_named_only_if_it_has_an_archive_in_it(tmp_path: Path) -> None:
    packed = b"MZ" + bytes(3000) + rar(("b/result.json", EXPORT))
    members = {"E/result.json": EXPORT, "a.exe": b"MZ" + bytes(5000), "b.exe": packed}
    number, reason = left_out(tmp_path / "in", tmp_path / "out", **members)
    assert number == 1
    assert "'b.exe' left out: a program, not an export: if it is self-extracting, run it" in reason
