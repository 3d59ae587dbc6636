"""Receiving files from an inbox: complete, once, and without loss in a crash."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from flows.batches import inbox as module
from flows.batches.inbox import receive, settled_files
from flows.ledger.intake import freeze_batches, frozen_batches, planning
from flows.ledger.owner import own_run
from flows.ledger.session import Session, connect


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[Session]:
    async with await connect(database_url, "test") as session:
        yield session


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    path = tmp_path / "inbox"
    path.mkdir()
    return path


def drop(inbox: Path, name: str, content: str = "", age: float = 60.0) -> Path:
    path = inbox / name
    path.write_text(content or name)
    os.utime(path, (time.time() - age,) * 2)
    return path


async def rows(session: Session, statement: str) -> list[tuple[object, ...]]:
    cursor = await session.execute(statement.encode())
    return [tuple(row.values()) for row in await cursor.fetchall()]


async def test_settled_files_are_returned_oldest_first_without_unfinished_ones(inbox: Path) -> None:
    drop(inbox, "b.zip", age=30)
    drop(inbox, "a.zip", age=20)
    drop(inbox, ".hidden.zip")
    drop(inbox, "c.zip.part")
    drop(inbox, "D.CRDOWNLOAD")
    (inbox / "folder").mkdir()
    (inbox / "link.zip").symlink_to("a.zip")
    assert [path.name for path in await settled_files(inbox, 0.1)] == ["b.zip", "a.zip"]


async def test_a_file_that_grows_between_two_checks_is_skipped(inbox: Path) -> None:
    done, growing = drop(inbox, "done.zip", age=0), drop(inbox, "growing.zip", age=0)

    async def write() -> None:
        await asyncio.sleep(0.1)
        growing.write_text("more than before")

    found, _ = await asyncio.gather(settled_files(inbox, 0.5), write())
    assert found == [done]


async def test_a_file_open_for_writing_is_skipped(inbox: Path) -> None:
    path = drop(inbox, "slow.zip")
    with path.open("a"):
        assert await settled_files(inbox, 0) == []
    with path.open():
        assert await settled_files(inbox, 0) == [path]


async def test_same_content_twice_is_a_duplicate(session: Session, inbox: Path, tmp_path: Path) -> None:
    first, again = drop(inbox, "first.zip", "same"), drop(inbox, "again.zip", "same")
    assert await receive(session, first, tmp_path / "sources") == "new"
    assert await receive(session, again, tmp_path / "sources") == "duplicate"
    assert list(inbox.iterdir()) == []
    ((name, stored),) = await rows(session, "SELECT name, stored_path FROM source_files")
    assert name == "first.zip"
    assert Path(str(stored)).read_text() == "same"
    assert await rows(session, "SELECT duplicate FROM receipts ORDER BY receipt_id") == [(False,), (True,)]


async def test_a_crash_between_recording_and_moving_loses_nothing(
    session: Session, inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = drop(inbox, "a.zip")

    def crash(path: Path, stored: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_move", crash)
        await receive(session, path, tmp_path / "sources")
    assert path.exists()
    assert await receive(session, path, tmp_path / "sources") == "new"
    ((stored,),) = await rows(session, "SELECT stored_path FROM source_files")
    assert Path(str(stored)).read_text() == "a.zip"
    assert await rows(session, "SELECT duplicate FROM receipts") == [(False,)]


async def test_a_name_that_is_not_utf8_is_stored_readable(
    session: Session, inbox: Path, tmp_path: Path
) -> None:
    path = Path(os.fsdecode(os.fsencode(inbox) + b"/\xff\xfe.zip"))
    path.write_text("x")
    assert await receive(session, path, tmp_path / "sources") == "new"
    assert await rows(session, "SELECT name FROM source_files") == [("\ufffd\ufffd.zip",)]


async def test_two_parents_claim_disjoint_batches(database_url: str, inbox: Path, tmp_path: Path) -> None:
    for number in range(25):
        drop(inbox, f"{number}.zip")

    planned = asyncio.Barrier(2)

    async def parent() -> list[str]:
        run_id = uuid4()
        async with own_run(run_id, database_url) as session_owner:
            session = session_owner.session
            async with planning(session):
                for path in await settled_files(inbox, 0):
                    await receive(session, path, tmp_path / "sources")
                batches = await freeze_batches(session, run_id, 10)
            await planned.wait()  # both stay alive until both have planned
            return batches

    first, second = await asyncio.gather(parent(), parent())
    assert sorted(first + second) == ["batch_000001", "batch_000002", "batch_000003"]
    assert first == [] or second == []


async def test_batches_of_a_live_parent_are_not_claimed_but_those_of_a_dead_one_are(
    database_url: str, inbox: Path, tmp_path: Path
) -> None:
    first, second, third = uuid4(), uuid4(), uuid4()
    async with own_run(first, database_url) as session_owner:
        session = session_owner.session
        await receive(session, drop(inbox, "a.zip"), tmp_path / "sources")
        claimed = await freeze_batches(session, first, 10)
        async with own_run(second, database_url) as other_owner:
            other = other_owner.session
            assert await freeze_batches(other, second, 10) == []
    async with own_run(third, database_url) as session_owner:
        session = session_owner.session
        assert await freeze_batches(session, third, 10) == claimed
        assert await frozen_batches(session, first) == claimed
