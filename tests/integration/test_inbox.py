"""Receiving files from an inbox: complete and once; what stays there is named."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE

import pytest
from inboxes import LOG, drop, intake, receive, rows, sources, take

from flows.batches.inbox import look
from flows.batches.kept import release_kept
from flows.batches.receiving import Arrival, Intake
from flows.batches.source_file import NotARegularFile, SourceFile
from flows.ledger.session import Session

#: A user that owns nothing here and has no capabilities.
NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory in which every user may create files, with an inbox of that kind."""
    with tempfile.TemporaryDirectory(prefix="tdp-shared-") as folder:
        (Path(folder) / "inbox").mkdir()
        for path in (Path(folder), Path(folder, "inbox")):
            path.chmod(0o777)
        yield Path(folder)


@pytest.fixture
def unprivileged() -> Iterator[Callable[[], None]]:
    """A function from whose call on the test runs as a user without capabilities."""
    yield lambda: os.seteuid(NOBODY)
    os.seteuid(0)


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


async def test_a_file_that_grows_between_two_checks_is_skipped(inbox: Path) -> None:
    done, growing = drop(inbox, "done.zip", age=0), drop(inbox, "growing.zip", age=0)

    async def write() -> None:
        await asyncio.sleep(0.1)
        growing.write_text("more than before")

    found, _ = await asyncio.gather(look(inbox, 0.5, 0), write())
    assert [candidate.path for candidate in found.files] == [done]


async def test_a_file_open_for_writing_is_skipped(inbox: Path) -> None:
    path = drop(inbox, "slow.zip")
    with path.open("a"):
        found = await look(inbox, 0, 0)
        assert (found.files, found.busy) == ([], [path])
    with path.open():
        assert [candidate.path for candidate in (await look(inbox, 0, 0)).files] == [path]


@needs_root
async def test_a_slow_writer_of_another_user_is_waited_for(
    session: Session, shared: Path, unprivileged: Callable[[], None]
) -> None:
    """The kernel does not say whether another user's file is open: only two equal looks do."""
    inbox = shared / "inbox"
    path = inbox / "slow.zip"
    with path.open("wb", 0) as writer:
        writer.write(b"first half, ")
        unprivileged()

        async def write() -> None:
            await asyncio.sleep(0.2)
            writer.write(b"second half")

        received, _ = await asyncio.gather(take(session, inbox, quiet=1.0), write())
        assert received.counts.total() == 0
        assert path.exists()
        assert await rows(session, "SELECT * FROM source_files") == []

        # Quiet for long enough: the file is copied, because the writer may still have it open.
        assert (await take(session, inbox, quiet=0.2)).counts == {Arrival.NEW: 1}
        writer.write(b", too late")
    assert await sources(session) == ["first half, second half"]
    assert list(inbox.iterdir()) == []


#: Writes half of a file, then waits for a line, then writes the rest.
PAUSING = """exec 3>"$1"; printf 'first half' >&3; echo; read _; printf ', second half' >&3"""


@needs_root
async def test_what_another_user_writes_after_a_long_pause_is_received_as_well(
    session: Session, shared: Path, unprivileged: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = shared / "inbox"
    path = inbox / "slow.zip"
    argv = ["sh", "-c", PAUSING, "sh", str(path)]
    writer = await asyncio.create_subprocess_exec(*argv, stdin=PIPE, stdout=PIPE, user=NOBODY - 1)
    assert writer.stdout
    await writer.stdout.readline()
    unprivileged()
    keeping = Intake(session, shared / "sources", LOG, keeps=True)
    assert (await keeping.receive_all(inbox, await look(inbox, 0, 0))).counts == {Arrival.NEW: 1}
    assert not path.exists()
    assert release_kept(inbox) == []
    await writer.communicate(b"\n")
    assert release_kept(inbox) == [path]
    assert (await keeping.receive_all(inbox, await look(inbox, 0, 0))).counts == {Arrival.NEW: 1}
    assert await sources(session) == ["first half", "first half, second half"]

    assert release_kept(inbox) == []
    assert len(list(inbox.iterdir())) == 1
    monkeypatch.setattr("flows.batches.kept.KEEP_SECONDS", -1.0)
    assert release_kept(inbox) == []
    assert list(inbox.iterdir()) == []


async def test_a_file_that_is_opened_while_it_is_moved_stays(
    session: Session, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = drop(inbox, "a.zip")
    sha256 = SourceFile.sha256

    def open_meanwhile(file: SourceFile) -> str:
        digest = sha256(file)
        with pytest.raises(BlockingIOError):  # the writer waits; with O_NONBLOCK it gets an error
            os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(SourceFile, "sha256", open_meanwhile)
        assert await receive(session, path) == Arrival.LATER
    assert path.read_text() == "a.zip"
    assert await rows(session, "SELECT sha256 FROM source_files UNION SELECT sha256 FROM arrivals") == []
    assert await receive(session, path) == Arrival.NEW


@pytest.mark.parametrize("known", [False, True])
async def test_another_file_under_the_same_name_is_not_taken_for_the_first(
    session: Session, inbox: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    if known:
        await receive(session, drop(inbox, "before.zip", "first"))
    path = drop(inbox, "a.zip", "first")
    sha256 = SourceFile.sha256

    def replace_meanwhile(file: SourceFile) -> str:
        digest = sha256(file)
        drop(inbox, ".new", "second").rename(path)
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(SourceFile, "sha256", replace_meanwhile)
        await receive(session, path)
    assert path.read_text() == "second"
    assert await receive(session, path) == Arrival.NEW
    assert await sources(session) == (["first", "second"] if known else ["second"])


async def test_a_pipe_or_a_link_in_place_of_a_file_is_not_waited_for(session: Session, inbox: Path) -> None:
    path = drop(inbox, "a.zip")
    (candidate,) = (await look(inbox, 0, 0)).files
    path.unlink()
    os.mkfifo(path)
    assert await intake(session, inbox).receive(candidate) == (Arrival.LEFT, "a named pipe")
    path.unlink()
    path.symlink_to("/etc/passwd")
    arrival, reason = await intake(session, inbox).receive(candidate)
    assert (arrival, str(reason).startswith("a link")) == (Arrival.LEFT, True)
    path.unlink()
    path.mkdir()
    with pytest.raises(NotARegularFile, match="a folder"):
        SourceFile(path)


async def test_same_content_twice_is_a_duplicate(session: Session, inbox: Path) -> None:
    first, again = drop(inbox, "first.zip", "same"), drop(inbox, "again.zip", "same")
    assert await receive(session, first) == Arrival.NEW
    assert await receive(session, again) == Arrival.DUPLICATE
    assert list(inbox.iterdir()) == []
    assert await rows(session, "SELECT name FROM source_files") == [("first.zip",)]
    assert await sources(session) == ["same"]
    assert await rows(session, "SELECT duplicate FROM receipts ORDER BY receipt_id") == [(False,), (True,)]


async def test_files_are_read_and_stored_in_threads(
    session: Session, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of gigabytes must not stop the event loop, which renews leases and proves sessions."""
    threads = set()
    for name in ("sha256", "store", "remove"):
        method = getattr(SourceFile, name)

        def record(
            file: SourceFile, *args: object, run: Callable[..., object] = method, **more: object
        ) -> object:
            threads.add(threading.current_thread())
            return run(file, *args, **more)

        monkeypatch.setattr(SourceFile, name, record)
    assert await receive(session, drop(inbox, "a.zip")) == Arrival.NEW
    assert threads
    assert threading.main_thread() not in threads


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


async def test_a_name_that_is_not_utf8_is_stored_readable(session: Session, inbox: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(inbox) + b"/\xff\xfe.zip"))
    path.write_text("x")
    assert await receive(session, path) == Arrival.NEW
    assert await rows(session, "SELECT name FROM source_files") == [("\ufffd\ufffd.zip",)]
