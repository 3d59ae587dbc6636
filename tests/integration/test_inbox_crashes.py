"""Receiving files from an inbox without loss: crashes, a full disk, several runs at once."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from inboxes import LOG, drop, intake, receive, rows, sources, take

from flows.batches.inbox import look
from flows.batches.kept import put_back, release_kept
from flows.batches.kept_elsewhere import release_elsewhere
from flows.batches.receiving import Arrival, Intake
from flows.ledger.intake import freeze_batches, frozen_batches, planning
from flows.ledger.owner import own_run
from flows.ledger.session import Session


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


CRASH = """
import asyncio, logging, os, sys
from pathlib import Path
from flows.batches import kept, source_file, stored_file
from flows.batches.inbox import look
from flows.batches.receiving import Intake
from flows.ledger.session import connect

url, inbox, where = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
owners = stored_file, kept, source_file.SourceFile
owner = next(owner for owner in owners if hasattr(owner, where))
def die(*_, **__): os.kill(os.getpid(), 9)
setattr(owner, where, die)

async def main():
    async with await connect(url, "crash") as session:
        only_once = "only_once" in sys.argv
        intake = Intake(session, inbox.parent / "sources", logging.getLogger(), only_once=only_once)
        await intake.receive_all(inbox, await look(inbox, 0, 0))
asyncio.run(main())
"""


async def crash(database_url: str, inbox: Path, *where: str) -> None:
    """Receive a folder in a process that kills itself when it calls the function ``where[0]``."""
    argv = [sys.executable, "-c", CRASH, database_url, str(inbox), *where]
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
        ("_remove", True),  # recorded and hidden, not removed
    ],
)
async def test_a_crash_loses_nothing_and_counts_nothing_twice(
    session: Session,
    database_url: str,
    inbox: Path,
    where: str,
    copied: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = drop(inbox, "a.zip", "content " * 300_000)
    if copied:  # a file with another name is not renamed
        (inbox / ".other").hardlink_to(path)
    await crash(database_url, inbox, where)
    run_id = uuid4()
    recorded = where in {"remove", "_remove"}
    assert len(await freeze_batches(session, run_id, 10)) == recorded, "only stored sources"
    await take(session, inbox)
    assert not path.exists()
    assert await sources(session) == ["content " * 300_000]
    assert await rows(session, "SELECT duplicate FROM receipts") == [(False,)]
    assert await rows(session, "SELECT * FROM arrivals") == []
    if not recorded:
        assert await freeze_batches(session, run_id, 10) == ["batch_000001"]
    monkeypatch.setattr("flows.batches.kept.KEEP_SECONDS", -1.0)
    assert release_kept(inbox) == []
    assert [entry.name for entry in inbox.iterdir()] == [".other"] * copied


async def test_what_a_killed_run_has_hidden_in_another_folder_is_released(
    session: Session, database_url: str, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inbox / ".other").hardlink_to(drop(inbox, "a.zip"))  # so it is copied, and hidden before it is removed
    await crash(database_url, inbox, "_remove", "only_once")
    listed = "SELECT reason FROM left_files WHERE name = '.tdp-kept-…'"
    assert len(await rows(session, listed)) == 1
    await release_elsewhere(session)
    ((reason,),) = await rows(session, listed)
    assert str(reason).startswith("1 received original, ")
    monkeypatch.setattr("flows.batches.kept.KEEP_SECONDS", -1.0)
    await release_elsewhere(session)
    assert [entry.name for entry in inbox.iterdir()] == [".other"]
    assert await rows(session, listed) == []


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


async def test_a_run_that_is_stopped_while_it_receives_completes_its_list_when_it_is_retried(
    session: Session, inbox: Path, database_url: str
) -> None:
    run_id = uuid4()
    async with own_run(run_id, database_url):
        for name in ("a.zip", "b.zip"):
            async with planning(session) as began:
                drop(inbox, name)
                await take(session, inbox)
                await freeze_batches(session, run_id, 10, since=began)
            assert await frozen_batches(session, run_id) == [], "it has still to receive the others"
        drop(inbox, "c.zip")
        await take(session, inbox)
        listed = await freeze_batches(session, run_id, 10)
        assert sorted(listed) == ["batch_000001", "batch_000002", "batch_000003"]
        assert listed[-1] == "batch_000003"
        assert await frozen_batches(session, run_id) == listed
        assert await rows(session, "SELECT position FROM run_batches ORDER BY 1") == [(0,), (1,), (2,)]
