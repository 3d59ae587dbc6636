"""Entries that are left in an inbox or another folder: each is reported once, with the reason."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from inboxes import LOG, drop, intake, needs_root, rows, sources, take

from flows.batches.inbox import ensure_foreign, look
from flows.batches.kept import leave
from flows.batches.kept_elsewhere import release_elsewhere
from flows.batches.receiving import Arrival, Intake
from flows.errors import FolderRefused
from flows.ledger.session import Session
from flows.settings import Settings


def facts(path: Path) -> tuple[object, ...]:
    """All of a file that a copy must not change."""
    seen = path.stat()
    return seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_nlink, seen.st_mode


async def test_complete_files_are_found_oldest_first_and_the_others_are_named(inbox: Path) -> None:
    drop(inbox, "b.zip", age=30)
    drop(inbox, "a.zip", age=20)
    drop(inbox, ".hidden.zip")
    drop(inbox, "c.zip.part")
    drop(inbox, "D.CRDOWNLOAD")
    drop(inbox, "given up.zip.part", age=4000)
    (inbox / "folder").mkdir()
    (inbox / ".folder").mkdir()
    (inbox / "link.zip").symlink_to("a.zip")
    os.mkfifo(inbox / "pipe.zip")
    found = await look(inbox, 0.1, 0)
    assert [candidate.path.name for candidate in found.files] == ["b.zip", "a.zip"]
    reasons = {path.name: reason for path, reason in found.left.items()}
    assert reasons.keys() == {"folder", "link.zip", "pipe.zip", "given up.zip.part"}
    assert reasons["folder"].startswith("a folder, but not one unpacked export")


async def test_the_folders_beside_pages_are_not_named(inbox: Path) -> None:
    drop(inbox, "messages.html")
    for name in ("css", "js", "photos"):
        (inbox / name).mkdir()
    assert [path.name for path in (await look(inbox, 0, 0)).left] == ["photos"]


async def test_a_copied_folder_stays_as_it_was(session: Session, inbox: Path) -> None:
    path = drop(inbox, "a.zip", "content")
    (inbox / "folder").mkdir()
    before = {entry.name: facts(entry) for entry in inbox.iterdir()}
    for expected in ({Arrival.NEW: 1}, {Arrival.KNOWN: 1}, {Arrival.KNOWN: 1}):
        assert (await take(session, inbox, move=False)).counts == expected
    assert {entry.name: facts(entry) for entry in inbox.iterdir()} == before
    path.write_text("changed")  # in place, by its owner: the stored file must not change with it
    assert await sources(session) == ["content"]
    assert (await take(session, inbox, move=False)).counts == {Arrival.NEW: 1}
    assert await rows(session, "SELECT duplicate FROM receipts") == [(False,), (False,)]


async def test_stored_files_are_not_received_from_their_own_folder(session: Session, inbox: Path) -> None:
    drop(inbox, "a.zip", "\x01content")
    await take(session, inbox)
    (stored,) = (path for path in (inbox.parent / "sources").rglob("*") if path.is_file())
    received = await intake(session, inbox).receive_all(stored.parent, await look(stored.parent, 0, 0))
    assert received.left == {stored: "a stored file of this installation"}
    assert await sources(session) == ["\x01content"]
    assert len(await rows(session, "SELECT * FROM receipts")) == 1


def test_the_folders_of_the_installation_itself_are_refused(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    settings.work.mkdir(parents=True)
    (tmp_path / "link").symlink_to(settings.root)
    for own in (settings.root, settings.sources / "ab", settings.work / "batch_000001", tmp_path / "link"):
        with pytest.raises(FolderRefused, match=r"the files of this installation itself: .*inbox, .*/inbox$"):
            ensure_foreign(own, settings)
    (tmp_path / "file").touch()
    for path, what in ((tmp_path / "file", "is not a folder"), (tmp_path / "x", "does not exist")):
        with pytest.raises(FolderRefused, match=f"{path} {what} on this host, "):
            ensure_foreign(path, settings)
    for other in (settings.inbox / "ChatExport", settings.root / "mine"):
        other.mkdir(parents=True)
    for other in (settings.inbox, settings.inbox / "ChatExport", settings.root / "mine", tmp_path):
        ensure_foreign(other, settings)


@needs_root
async def test_a_file_that_cannot_be_removed_has_one_receipt_and_is_named_once(
    session: Session, shared: Path, unprivileged: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    inbox = shared / "inbox"
    path = drop(inbox, "a.zip")
    path.chmod(0o644)
    inbox.chmod(0o755)
    unprivileged()
    counts = [(await take(session, inbox)).counts for _ in range(3)]
    assert counts == [{Arrival.NEW: 1}, {Arrival.KNOWN: 1}, {Arrival.KNOWN: 1}]
    assert path.exists()
    assert await rows(session, "SELECT duplicate FROM receipts") == [(False,)]
    named = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert named == [f"Left in {inbox}: a.zip: received, but it cannot be removed: Permission denied"]


@pytest.mark.parametrize(
    "name", ["Thumbs.db", ".DS_Store", "desktop.ini", "a.zip:Zone.Identifier", "._a.zip"]
)
async def test_metadata_of_operating_systems_is_named(inbox: Path, name: str) -> None:
    drop(inbox, name)
    assert (await look(inbox, 0, 0)).left == {inbox / name: "metadata of Windows or macOS"}


@needs_root
async def test_what_may_not_be_read_is_named_once(
    session: Session, shared: Path, unprivileged: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    inbox = shared / "inbox"
    drop(inbox, "a.zip").chmod(0o600)
    (inbox / "ChatExport").mkdir(mode=0o700)
    unprivileged()
    for _ in range(2):
        received = await take(session, inbox)
        assert received.failed == {inbox / "a.zip": "not received: Permission denied"}
    named = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert sorted(named) == [
        f"Left in {inbox}: ChatExport: a folder that cannot be read: Permission denied",
        f"Left in {inbox}: a.zip: not received: Permission denied",
    ]


async def test_other_files_stay_and_are_named_once(
    session: Session, inbox: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (inbox / "report.zip").write_bytes(b"%PDF-1.7\n\xff")
    (inbox / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF")
    drop(inbox, "notes.txt", "socks\n")
    (inbox / "ChatExport").mkdir()
    drop(inbox, "wrong.zip", "a text that is named as an archive")
    for _ in range(2):
        await take(session, inbox)
    assert {path.name for path in inbox.iterdir()} == {"report.zip", "photo.jpg", "notes.txt", "ChatExport"}
    assert await rows(session, "SELECT name FROM source_files") == [("wrong.zip",)]
    assert await rows(session, "SELECT count(*) FROM receipts") == [(1,)]
    named = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(named) == 4
    assert f"Left in {inbox}: report.zip: a PDF document, neither an archive nor an export" in named
    (inbox / "notes.txt").unlink()
    await take(session, inbox)
    assert len(await rows(session, "SELECT name FROM left_files")) == 3


async def move_from(session: Session, folder: Path) -> None:
    """Receive a folder that is not the inbox, as `tdp run --move` does."""
    moving = Intake(session, folder.parent / "sources", LOG, keeps=True, only_once=True)
    await moving.receive_all(folder, await look(folder, 0, 0))


async def test_a_folder_that_is_empty_for_now_stays_noted(
    session: Session, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(drop(inbox, "a.zip"), lambda _: True, keeps=True)
    await move_from(session, inbox)
    inbox.rename(inbox.with_name("mounted"))
    inbox.mkdir()
    await release_elsewhere(session)
    await move_from(session, inbox)
    ((reason,),) = await rows(session, "SELECT reason FROM left_files")
    assert str(reason).startswith("received originals may be hidden here")

    inbox.rmdir()
    inbox.with_name("mounted").rename(inbox)
    monkeypatch.setattr("flows.batches.kept.KEEP_SECONDS", -1.0)
    await release_elsewhere(session)
    assert list(inbox.iterdir()) == []
    assert await rows(session, "SELECT * FROM left_files") == []


async def test_a_run_that_keeps_nothing_in_its_folder_leaves_no_note(session: Session, inbox: Path) -> None:
    drop(inbox, "a.zip")
    await move_from(session, inbox)
    assert list(inbox.iterdir()) == []
    assert await rows(session, "SELECT * FROM left_files") == []


async def test_what_is_put_back_may_have_any_name(session: Session, inbox: Path) -> None:
    leave(drop(inbox, os.fsdecode(b"\xff.zip"), "first"), lambda _: True, keeps=True)
    await move_from(session, inbox)
    (hidden,) = inbox.iterdir()
    hidden.write_text("changed after it was received")
    await release_elsewhere(session)
    assert [os.fsencode(entry.name) for entry in inbox.iterdir()] == [b"\xff.zip"]
    assert await rows(session, "SELECT name FROM left_files") == [("\ufffd.zip",)]
