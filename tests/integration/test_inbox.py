"""Receiving files from an inbox: complete and once, also beside slow writers."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE

import pytest
from inboxes import LOG, NOBODY, drop, intake, needs_root, receive, rows, sources, take

from flows.batches.inbox import look
from flows.batches.kept import release_kept
from flows.batches.kept_elsewhere import release_elsewhere
from flows.batches.receiving import Arrival, Intake
from flows.batches.source_file import NotARegularFile, SourceFile
from flows.ledger.session import Session


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
    """The kernel does not say whether another user's file is open: two checks must find the file
    unchanged."""
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


async def test_a_name_that_is_not_utf8_is_stored_readable(session: Session, inbox: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(inbox) + b"/\xff\xfe.zip"))
    path.write_text("x")
    assert await receive(session, path) == Arrival.NEW
    assert await rows(session, "SELECT name FROM source_files") == [("\ufffd\ufffd.zip",)]


@needs_root
async def test_a_move_from_another_folder_keeps_what_another_user_may_still_write(
    session: Session, shared: Path, unprivileged: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shared / "inbox"
    drop(folder, "a.zip", "first half")
    unprivileged()
    moving = Intake(session, shared / "sources", LOG, keeps=True, only_once=True)
    received = await moving.receive_all(folder, await look(folder, 0, 0))
    assert [reason.split(",")[0] for reason in received.left.values()] == ["1 received original"]
    await release_elsewhere(session)
    (hidden,) = folder.iterdir()
    os.seteuid(0)  # the writer
    hidden.write_text("first half, second half")
    await release_elsewhere(session)
    assert (folder / "a.zip").read_text() == "first half, second half"
    ((name, reason),) = await rows(session, "SELECT name, reason FROM left_files")
    assert name == "a.zip"
    assert "run `tdp run` on the folder again" in str(reason)

    unprivileged()
    await moving.receive_all(folder, await look(folder, 0, 0))
    monkeypatch.setattr("flows.batches.kept.KEEP_SECONDS", -1.0)
    await release_elsewhere(session)
    assert list(folder.iterdir()) == []
    assert await rows(session, "SELECT * FROM left_files") == []
    assert await sources(session) == ["first half", "first half, second half"]
