"""The generator of samples: reproducible, varied, with correct counts."""

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flows.samples import Expected, write_samples

#: Rows of a page: the messages, but not the date bars (ids -1, -2, …).
ROWS = re.compile(rb'id="message(\d+|-9\d{8})"')
CHAT_TYPES = {
    "personal_chat", "bot_chat", "saved_messages", "replies", "verification_codes", "private_group",
    "private_supergroup", "public_supergroup", "private_channel", "public_channel",
}  # fmt: skip


@pytest.fixture(scope="module")
def samples_50(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Expected]:
    directory = tmp_path_factory.mktemp("samples")
    return directory, write_samples(directory, files=50, messages=100, seed=7)


def members(path: Path) -> dict[str, bytes]:
    if path.suffix != ".zip":
        return {"result.json": path.read_bytes()}
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def chats_of(text: bytes) -> list[dict[str, Any]]:
    """Return the chats of a result.json, with the known defects of 2022 repaired by regular expressions."""
    text = re.sub(rb'"document_id": ([^"\n]+)$', rb'"document_id": "\1"', text, flags=re.MULTILINE)
    export = json.loads(text.replace(b"\\x01", b"\\u0001"))
    if "messages" in export:
        return [export]
    return [*export["chats"]["list"], *export["left_chats"]["list"]]


def all_chats(directory: Path) -> Iterator[dict[str, Any]]:
    for path in directory.iterdir():
        for name, content in members(path).items():
            if name.endswith(".json"):
                yield from chats_of(content)


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    counts = [write_samples(tmp_path / name, 12, 30, seed=3, broken=6) for name in ("one", "two")]
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")
    )
    assert first == second
    assert counts[0] == counts[1]
    assert msgspec.json.decode(msgspec.json.encode(counts[0]), type=Expected) == counts[0]


def test_another_seed_shares_no_content(tmp_path: Path) -> None:
    write_samples(tmp_path / "one", 10, 5, seed=3)
    write_samples(tmp_path / "two", 10, 5, seed=4)
    one, two = ({path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert not one & two
    assert len(one) == 10


def test_the_counts_are_those_of_the_files(samples_50: tuple[Path, Expected]) -> None:
    directory, expected = samples_50
    for name, file in expected.by_file.items():
        content = members(directory / name)
        exports = [chats_of(data) for path, data in content.items() if path.endswith(".json")]
        in_json = [len(chat["messages"]) for export in exports for chat in export]
        folders = {path.rpartition("/")[0] for path in content if path.endswith("result.json")}
        pages = {
            path: len(ROWS.findall(data))
            for path, data in content.items()
            if re.fullmatch(r".*messages\d*\.html", path) and path.rpartition("/")[0] not in folders
        }
        chats_in_html = sum(path.endswith("messages.html") for path in pages)
        assert sum(in_json) + sum(pages.values()) == file.messages == 100, name
        assert len(in_json) + chats_in_html == file.chats, name
    assert (expected.files, expected.messages) == (50, 5000)
    assert expected.chats == sum(file.chats for file in expected.by_file.values())


def test_no_two_files_share_a_chat(samples_50: tuple[Path, Expected]) -> None:
    directory, _ = samples_50
    keyed = [chat for chat in all_chats(directory) if chat["type"] not in {"replies", "verification_codes"}]
    assert max(Counter((chat["type"], chat["id"]) for chat in keyed).values()) == 1
    for chat in keyed:
        assert len({message["id"] for message in chat["messages"]}) == len(chat["messages"])


def test_every_kind_of_content_occurs(samples_50: tuple[Path, Expected]) -> None:
    directory, _ = samples_50
    chats = list(all_chats(directory))
    messages = [message for chat in chats for message in chat["messages"]]
    assert {chat["type"] for chat in chats} == CHAT_TYPES
    assert {message["type"] for message in messages} == {"message", "service", "unsupported"}
    keys = {key for message in messages for key in message}
    assert keys >= {
        "edited", "edited_unixtime", "from", "from_id", "author", "forwarded_from",
        "forwarded_from_id", "saved_from", "reply_to_message_id", "reply_to_peer_id", "via_bot",
        "photo", "photo_file_size", "file", "file_name", "thumbnail", "media_type", "sticker_emoji",
        "performer", "contact_information", "contact_vcard", "location_information", "place_name",
        "poll", "todo_list", "game_title", "invoice_information", "giveaway_information",
        "inline_bot_buttons", "reactions", "hologram_information",
    }  # fmt: skip
    assert {message.get("media_type") for message in messages} == {
        None, "sticker", "video_message", "voice_message", "animation", "video_file", "audio_file",
    }  # fmt: skip
    assert len({message.get("action") for message in messages}) > 30
    entities = {
        part["type"]
        for message in messages
        if isinstance(message.get("text"), list)
        for part in message["text"]
        if isinstance(part, dict)
    }
    assert len(entities) >= 19
    senders = [message.get("from_id") for message in messages]
    assert {type(sender) for sender in senders} == {type(None), int, str}
    assert any(isinstance(sender, int) and sender > 1 << 32 for sender in senders)
    assert any("from" in message and message["from"] is None for message in messages)
    assert any("date_unixtime" not in message for message in messages if "date" in message)
    assert any(message["id"] < -900_000_000 for message in messages)


def test_html_has_several_parts_with_links_between_them(samples_50: tuple[Path, Expected]) -> None:
    directory, expected = samples_50
    pages = [
        (path, content)
        for name in expected.by_file
        for path, content in members(directory / name).items()
        if path.endswith(".html")
    ]
    assert any(path.endswith("messages3.html") for path, _ in pages)
    text = b"".join(content for _, content in pages)
    assert re.search(rb'href="messages\d?\.html#go_to_message\d+"', text)
    for mark in (
        b" joined",
        b"forwarded body",
        b'id="message-1"',
        b"UTC+05:45",
        b"export_results",
        b" via @gif",
    ):
        assert mark in text or any(mark in path.encode() for path, _ in pages), mark
    assert re.search(rb'title="\d\d\.\d\d\.\d{4} \d\d:\d\d:\d\d"', text), "exports of before dates had a zone"


def test_broken_files_have_the_stated_defects(tmp_path: Path) -> None:
    expected = write_samples(tmp_path, files=6, messages=20, seed=1, broken=6)
    outcomes = Counter(file.outcome for file in expected.by_file.values())
    assert outcomes == {"ok": 6, "quarantined": 5, "partial": 1}
    partial = next(name for name, file in expected.by_file.items() if file.outcome == "partial")
    text = next(content for path, content in members(tmp_path / partial).items() if path.endswith(".json"))
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)
    assert 0 < expected.by_file[partial].messages < 20
    cut, encrypted = (
        tmp_path / next(n for n in expected.by_file if k in n) for k in ("cut off", "encrypted")
    )
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(cut)
    with zipfile.ZipFile(io.BytesIO(encrypted.read_bytes())) as archive, pytest.raises(RuntimeError):
        archive.read(archive.namelist()[0])


def test_media_can_be_left_out_or_made_large(tmp_path: Path) -> None:
    write_samples(tmp_path / "none", 1, 60, seed=1, media_bytes=0)
    write_samples(tmp_path / "large", 1, 60, seed=1, media_bytes=50_000)
    (none,), (large,) = (list((tmp_path / name).iterdir()) for name in ("none", "large"))
    assert len(members(none)) == 1
    assert {len(content) for path, content in members(large).items() if "photos" in path} == {50_000}


def test_a_chat_can_be_repeated(tmp_path: Path) -> None:
    once = write_samples(tmp_path / "once", files=5, messages=40, seed=9)
    again = write_samples(tmp_path / "again", files=5, messages=40, seed=9, again=3)
    *_, copy, later, html = again.by_file
    assert [again.by_file[name].outcome for name in (copy, later, html)] == ["duplicate", "ok", "ok"]
    assert (again.files, again.chats, again.messages) == (8, once.chats, once.messages + 10)
    first = next(name for name in again.by_file if "both" in name)
    assert (tmp_path / "again" / copy).read_bytes() == (tmp_path / "again" / first).read_bytes()

    (before,), (after,) = (
        [
            chat
            for path, data in members(tmp_path / "again" / name).items()
            if path.endswith("json")
            for chat in chats_of(data)
        ]
        for name in (first, later)
    )
    assert (before["id"], before["name"]) == (after["id"], after["name"])
    rows = [{message["id"]: message for message in chat["messages"]} for chat in (before, after)]
    assert len(rows[1]) == 50
    assert rows[0].keys() < rows[1].keys()
    changed = [number for number, message in rows[0].items() if rows[1][number] != message]
    assert changed
    assert all(rows[1][number]["text"] == "edited since" for number in changed)

    page = members(tmp_path / "again" / html)
    in_html = {int(number) for text in page.values() for number in re.findall(rb'id="message(-?\d+)"', text)}
    assert rows[0].keys() <= in_html


def test_too_many_repetitions_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most 3 repetitions"):
        write_samples(tmp_path, files=5, messages=1, seed=1, again=4)
