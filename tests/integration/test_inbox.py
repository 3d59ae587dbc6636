"""Receiving files from an inbox: complete, once, and without loss in a crash."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from uuid import uuid4

import pytest

from flows.batches.inbox import look
from flows.batches.kept import put_back, release_kept
from flows.batches.receiving import Arrival, Intake, Received
from flows.batches.source_file import NotARegularFile, SourceFile
from flows.ledger.intake import freeze_batches, frozen_batches, known_sightings, planning
from flows.ledger.owner import own_run
from flows.ledger.session import Session, connect

#: A user that owns nothing here and has no capabilities.
NOBODY = 65534
LOG = logging.getLogger("test")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[Session]:
    async with await connect(database_url, "test") as session:
        yield session


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    path = tmp_path / "inbox"
    path.mkdir()
    return path


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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1.5 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0 or mounted("mount", "-t", "tmpfs", "-o", "size=1536k", "tmpfs", folder):
        pytest.skip("mounting a file system is not permitted here")
    yield folder
    mounted("umount", folder)


def mounted(*command: str | Path) -> int:
    """Run mount or umount; return its exit status."""
    return subprocess.run(command, capture_output=True, check=False).returncode


def drop(inbox: Path, name: str, content: str = "", age: float = 60.0) -> Path:
    path = inbox / name
    path.write_text(content or name)
    os.utime(path, (time.time() - age,) * 2)
    return path


def intake(session: Session, inbox: Path, *, move: bool = True) -> Intake:
    return Intake(session, inbox.parent / "sources", LOG, move=move)


async def take(session: Session, inbox: Path, *, move: bool = True, quiet: float = 0) -> Received:
    """Receive what is in the inbox now."""
    found = await look(inbox, 0, quiet, lambda seen: known_sightings(session, quiet, seen))
    return await intake(session, inbox, move=move).receive_all(inbox, found)


async def receive(session: Session, path: Path) -> Arrival | None:
    """Receive one file of an inbox; None if the look did not find it complete."""
    found = await look(path.parent, 0, 0)
    for candidate in found.files:
        if candidate.path == path:
            return (await intake(session, path.parent).receive(candidate))[0]
    return None


def facts(path: Path) -> tuple[object, ...]:
    """All of a file that a copy must not change."""
    seen = path.stat()
    return seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_nlink, seen.st_mode


async def rows(session: Session, statement: str) -> list[tuple[object, ...]]:
    cursor = await session.execute(statement.encode())
    return [tuple(row.values()) for row in await cursor.fetchall()]


async def sources(session: Session) -> list[str]:
    """Return the contents of the recorded sources as they are on the disk."""
    stored = await rows(session, "SELECT stored_path FROM source_files ORDER BY source_id")
    return [Path(str(path)).read_text() for (path,) in stored]


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


CRASH = """
import asyncio, logging, os, sys
from pathlib import Path
from flows.batches import source_file, stored_file
from flows.batches.inbox import look
from flows.batches.receiving import Intake
from flows.ledger.session import connect

url, inbox, where = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
owner = stored_file if hasattr(stored_file, where) else source_file.SourceFile
def die(*_, **__): os.kill(os.getpid(), 9)
setattr(owner, where, die)

async def main():
    async with await connect(url, "crash") as session:
        intake = Intake(session, inbox.parent / "sources", logging.getLogger())
        await intake.receive_all(inbox, await look(inbox, 0, 0))
asyncio.run(main())
"""


async def crash(database_url: str, inbox: Path, where: str) -> None:
    """Receive the inbox in a process that kills itself when it calls a function."""
    argv = [sys.executable, "-c", CRASH, database_url, str(inbox), where]
    dead = await asyncio.create_subprocess_exec(*argv)
    assert await dead.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("where", "copied"),
    [
        ("store", False),  # announced, not moved
        ("protect", False),  # moved, not recorded
        ("write_all", True),  # in the middle of the copy, as between two file systems
        ("protect", True),  # copied, not recorded
        ("remove", True),  # recorded, not removed
    ],
)
async def test_a_crash_loses_nothing_and_counts_nothing_twice(
    session: Session, database_url: str, inbox: Path, where: str, copied: bool
) -> None:
    path = drop(inbox, "a.zip", "content " * 300_000)
    if copied:  # a file with another name is not renamed
        (inbox / ".other").hardlink_to(path)
    await crash(database_url, inbox, where)
    run_id = uuid4()
    assert len(await freeze_batches(session, run_id, 10)) == (where == "remove"), "only stored sources"
    await take(session, inbox)
    assert not path.exists()
    assert await sources(session) == ["content " * 300_000]
    assert await rows(session, "SELECT duplicate FROM receipts") == [(False,)]
    assert await rows(session, "SELECT * FROM arrivals") == []
    if where != "remove":
        assert await freeze_batches(session, run_id, 10) == ["batch_000001"]


async def test_a_moved_file_that_was_changed_before_the_run_died_is_put_back(
    session: Session, database_url: str, inbox: Path
) -> None:
    path = drop(inbox, "a.zip")
    await crash(database_url, inbox, "protect")
    (moved,) = [stored for stored in (inbox.parent / "sources").rglob("*") if stored.is_file()]
    moved.write_text("written after all")
    await take(session, inbox)
    assert await sources(session) == []
    assert path.read_text() == "written after all"


def test_put_back_overwrites_nothing(tmp_path: Path) -> None:
    drop(tmp_path, "a.zip", "another")
    assert put_back(drop(tmp_path, "stored", "ours"), tmp_path / "a.zip") == tmp_path / "a (2).zip"
    assert (tmp_path / "a.zip").read_text() == "another"
    assert (tmp_path / "a (2).zip").read_text() == "ours"


async def test_a_full_disk_leaves_files_in_the_inbox_and_out_of_every_batch(
    session: Session, small_disk: Path, inbox: Path
) -> None:
    contents = [letter * 600_000 for letter in "abcd"]
    for content in contents:
        drop(inbox, f"{content[0]}.zip", content)
    onto = Intake(session, small_disk / "sources", LOG)
    received = await onto.receive_all(inbox, await look(inbox, 0, 0))
    assert received.counts == {Arrival.NEW: 2}
    assert set(received.failed.values()) == {f"not received: {os.strerror(errno.ENOSPC)}"}
    assert len(list(inbox.iterdir())) == 2
    (batch,) = await freeze_batches(session, uuid4(), 10)
    assert await rows(session, "SELECT file_count FROM batch_processing") == [(2,)]
    assert await rows(session, "SELECT is_error FROM left_files") == [(True,), (True,)]
    assert list(small_disk.glob("sources/*/.*")) == []

    assert mounted("mount", "-o", "remount,size=8m", small_disk) == 0
    received = await onto.receive_all(inbox, await look(inbox, 0, 0))
    assert received.counts == {Arrival.NEW: 2}
    assert list(inbox.iterdir()) == []
    assert sorted(await sources(session)) == contents
    assert await rows(session, "SELECT * FROM left_files") == []
    assert await freeze_batches(session, uuid4(), 10) == [batch, "batch_000002"]


async def test_sources_whose_stored_file_is_missing_are_not_batched(session: Session, inbox: Path) -> None:
    await receive(session, drop(inbox, "a.zip", "content"))
    ((stored,),) = await rows(session, "SELECT stored_path FROM source_files")
    Path(str(stored)).unlink()
    assert await freeze_batches(session, uuid4(), 10) == []
    assert await receive(session, drop(inbox, "a.zip", "content")) == Arrival.AGAIN
    assert await sources(session) == ["content"]
    assert len(await freeze_batches(session, uuid4(), 10)) == 1


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


async def test_two_parents_claim_disjoint_batches(database_url: str, inbox: Path) -> None:
    for number in range(25):
        drop(inbox, f"{number}.zip")

    planned = asyncio.Barrier(2)

    async def parent() -> list[str]:
        run_id = uuid4()
        async with own_run(run_id, database_url) as session_owner:
            session = session_owner.session
            found = await look(inbox, 0, 0)
            async with planning(session):
                await intake(session, inbox).receive_all(inbox, found)
                batches = await freeze_batches(session, run_id, 10)
            await planned.wait()  # both stay alive until both have planned
            return batches

    first, second = await asyncio.gather(parent(), parent())
    assert sorted(first + second) == ["batch_000001", "batch_000002", "batch_000003"]
    assert first == [] or second == []


async def test_batches_of_a_live_parent_are_not_claimed_but_those_of_a_dead_one_are(
    database_url: str, inbox: Path
) -> None:
    first, second, third = uuid4(), uuid4(), uuid4()
    async with own_run(first, database_url) as session_owner:
        session = session_owner.session
        await receive(session, drop(inbox, "a.zip"))
        claimed = await freeze_batches(session, first, 10)
        async with own_run(second, database_url) as other_owner:
            other = other_owner.session
            assert await freeze_batches(other, second, 10) == []
    async with own_run(third, database_url) as session_owner:
        session = session_owner.session
        assert await freeze_batches(session, third, 10) == claimed
        assert await frozen_batches(session, first) == claimed
