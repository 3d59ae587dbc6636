"""Unpacked exports in the inbox, and as the folder of `tdp run`: one source file each, whole and once."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import shutil
import signal
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from blocks import PIPELINE, PipelineConfig
from flows.batches.inbox import look
from flows.batches.kept import release_kept
from flows.batches.receiving import Arrival, Intake, Received
from flows.batches.source_folder import SourceFolder
from flows.ledger.session import Session
from flows.process_inbox import process_inbox
from flows.samples.archives import pages
from flows.samples.exports import Maker, SampleSpec
from flows.settings import Settings

LOG = logging.getLogger("test")
PAGE = "<!DOCTYPE html><html><body></body></html>"


def export(folder: Path, name: str = "ChatExport_2024-05-06") -> Path:
    """Write an unpacked export with a page and a photo."""
    path = folder / name
    (path / "photos").mkdir(parents=True)
    (path / "messages.html").write_text(PAGE)
    (path / "photos" / "photo_1.jpg").write_bytes(b"\xff\xd8\xff" + b"x" * 100_000)
    return path


async def take(session: Session, inbox: Path, *, keeps: bool = True, quiet: float = 0) -> Received:
    intake = Intake(session, inbox.parent / "sources", LOG, keeps=keeps)
    return await intake.receive_all(inbox, await look(inbox, 0, quiet))


async def test_a_folder_is_received_as_one_file_and_once(session: Session, inbox: Path) -> None:
    first = export(inbox)
    again = export(inbox, "ChatExport_2024-05-06 (2)")
    os.utime(again / "messages.html", (1, 1))
    (again / "empty").mkdir()
    assert (await take(session, inbox)).counts == {Arrival.NEW: 1, Arrival.DUPLICATE: 1}
    assert not first.exists() and not again.exists()
    cursor = await session.execute("SELECT name, size_bytes, stored_path, sha256 FROM source_files")
    (source,) = await cursor.fetchall()
    stored = Path(source["stored_path"])
    assert source["name"] in {f"{path.name}.zip" for path in (first, again)}
    assert (source["size_bytes"], source["sha256"]) == (stored.stat().st_size, stored.name)
    with zipfile.ZipFile(stored) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["messages.html", "photos/photo_1.jpg"]
    assert release_kept(inbox) == []


async def test_a_folder_that_changes_after_it_was_received_comes_back_and_is_received_again(
    session: Session, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export(inbox)
    await take(session, inbox)
    (hidden,) = inbox.iterdir()
    (hidden / "messages2.html").write_text(PAGE)
    assert release_kept(inbox) == [path]
    assert (await take(session, inbox)).counts == {Arrival.NEW: 1}
    monkeypatch.setattr("flows.batches.kept.KEEP_SECONDS", -1.0)
    assert release_kept(inbox) == []
    assert list(inbox.iterdir()) == []


async def test_a_folder_that_was_removed_in_part_does_not_come_back(
    session: Session, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(inbox)
    await take(session, inbox)

    def stop_half_way(folder: Path, **_: object) -> None:
        (folder / "messages.html").unlink()
        raise OSError("killed")

    with monkeypatch.context() as patched:
        patched.setattr("flows.batches.kept.KEEP_SECONDS", -1.0)
        patched.setattr("flows.batches.kept.shutil.rmtree", stop_half_way)
        with suppress(OSError):
            release_kept(inbox)
    assert release_kept(inbox) == []
    assert list(inbox.iterdir()) == []


DIES = """
import asyncio, logging, os, sys
from pathlib import Path
from flows.batches import stored_file
from flows.batches.inbox import look
from flows.batches.receiving import Intake
from flows.batches.source_folder import SourceFolder
from flows.ledger.session import connect

url, inbox, where = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
owner = stored_file if hasattr(stored_file, where) else SourceFolder
setattr(owner, where, lambda *_, **__: os.kill(os.getpid(), 9))

async def main():
    async with await connect(url, "crash") as session:
        intake = Intake(session, inbox.parent / "sources", logging.getLogger(), keeps=True)
        await intake.receive_all(inbox, await look(inbox, 0, 0))
asyncio.run(main())
"""


@pytest.mark.parametrize("where", ["store", "protect", "remove"])
async def test_a_crash_while_a_folder_is_received_loses_nothing_and_counts_nothing_twice(
    session: Session, database_url: str, inbox: Path, where: str
) -> None:
    """Announced; stored, not recorded; recorded, not removed."""
    path = export(inbox)
    dying = await asyncio.create_subprocess_exec(sys.executable, "-c", DIES, database_url, str(inbox), where)
    assert await dying.wait() == -signal.SIGKILL
    assert path.exists()
    await take(session, inbox)
    assert not path.exists()
    received = "SELECT duplicate, sha256 FROM receipts JOIN source_files USING (source_id)"
    cursor = await session.execute(received)
    (receipt,) = await cursor.fetchall()
    assert not receipt["duplicate"]
    stored = [file.name for file in (inbox.parent / "sources").rglob("*") if file.is_file()]
    assert stored == [receipt["sha256"]]


async def test_nothing_of_a_folder_is_kept_outside_of_the_inbox(session: Session, inbox: Path) -> None:
    export(inbox)
    assert (await take(session, inbox, keeps=False)).counts == {Arrival.NEW: 1}
    assert list(inbox.iterdir()) == []


async def test_a_folder_is_waited_for_while_it_is_written_to(inbox: Path) -> None:
    path = export(inbox)
    with (path / "photos" / "photo_2.jpg").open("w"):
        assert (await look(inbox, 0, 0)).busy == [path]
    seen = {}

    async def known(sightings: list[str]) -> dict[str, bool]:
        seen.update(dict.fromkeys(sightings, False))
        (path / "messages2.html").write_text(PAGE)
        return {}

    assert (await look(inbox, 0, 0, known)).busy == [path]
    assert len(seen) == 1


async def test_a_file_that_changes_while_the_folder_is_packed_is_noticed(inbox: Path, tmp_path: Path) -> None:
    with SourceFolder(export(inbox)) as folder:
        stored = tmp_path / "sources" / "00" / folder.sha256()
        (folder.path / "messages.html").write_text(PAGE + " ")
        assert not folder.store(stored, move=True)
        assert list(stored.parent.iterdir()) == []
        assert not folder.remove(keeps=True)
    assert (folder.path / "messages.html").exists()


async def test_no_file_is_read_through_a_link_that_took_the_place_of_a_folder(
    inbox: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "photo_1.jpg").write_bytes(b"secret" * 20_000)
    with SourceFolder(export(inbox)) as folder:
        (folder.path / "photos").rename(folder.path / "away")
        (folder.path / "photos").symlink_to(elsewhere)
        folder.store(stored := tmp_path / "sources" / "00" / folder.sha256(), move=True)
        assert not stored.exists()
    assert (await look(inbox, 0, 0)).left.keys() == {folder.path}


async def test_folders_that_are_not_one_export_stay_and_are_named(inbox: Path) -> None:
    export(inbox, "link")
    (inbox / "link" / "photos" / "elsewhere").symlink_to("/etc/passwd")
    (inbox / "archives").mkdir()
    for name in ("result.json", "other.zip"):
        (inbox / "archives" / name).write_text("{}")
    (inbox / "empty").mkdir()
    left = {path.name: reason for path, reason in (await look(inbox, 0, 0)).left.items()}
    assert left.keys() == {"link", "archives", "empty"}
    assert left["link"] == "in it is a link: copy the file itself (photos/elsewhere): zip the folder"
    assert "not one unpacked export" in left["archives"]


def rows(settings: Settings, statement: str) -> list[dict[str, Any]]:
    with psycopg.connect(settings.database, row_factory=dict_row, autocommit=True) as connection:
        return connection.execute(statement.encode()).fetchall()


async def test_parts_in_a_folder_become_one_chat_from_the_inbox_and_in_place(
    installation: Settings, tmp_path: Path
) -> None:
    await PipelineConfig(settle_seconds=0, quiet_seconds=0).save(PIPELINE, overwrite=True)
    packed = pages(Maker(SampleSpec(seed=7, index=0, messages=100, media_bytes=1024, page=40)))
    with zipfile.ZipFile(io.BytesIO(packed.data)) as archive:
        archive.extractall(tmp_path / "elsewhere")
    (folder,) = (tmp_path / "elsewhere").iterdir()
    assert len(list(folder.glob("messages*.html"))) == 3
    shutil.copytree(folder, installation.inbox / folder.name)
    before = {path: path.stat().st_ctime_ns for path in (tmp_path / "elsewhere").rglob("*")}

    assert (await process_inbox())["completed"] == 1
    sources = rows(installation, "SELECT * FROM batch_files JOIN source_files USING (source_id)")
    assert [(row["name"], row["status"]) for row in sources] == [(f"{folder.name}.zip", "STORED")]
    assert rows(installation, "SELECT count(*) AS n FROM chats") == [{"n": 1}]
    assert rows(installation, "SELECT count(*) AS n FROM messages") == [{"n": 100}]
    media = list((installation.work).rglob("media.jsonl"))
    assert [path.read_text().count("\n") > 0 for path in media] == [True]  # listed, not unpacked

    for _ in range(2):  # it is not packed again the second time
        assert (await process_inbox(str(folder), move=True))["batches"] == 0
    assert rows(installation, "SELECT count(*) AS n FROM receipts WHERE duplicate") == [{"n": 1}]
    assert {path: path.stat().st_ctime_ns for path in (tmp_path / "elsewhere").rglob("*")} == before

    assert (await process_inbox(str(tmp_path / "elsewhere"), move=True))["batches"] == 0
    (kept,) = (tmp_path / "elsewhere").iterdir()
    assert kept.name.startswith(".tdp-kept-"), "its next file may be on its way, as in the inbox"
    assert [row["name"] for row in rows(installation, "SELECT name FROM left_files")] == [".tdp-kept-…"]
