"""Waits of an upload: for disk space, for the next attempt, and for a bot that restarts."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bot_api import BotApi
from bot_plant import ANNA, BORIS, Plant, export

from flows.bot import chats, service, uploads
from flows.settings import Settings


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield folder
    subprocess.run(["umount", folder], capture_output=True, check=False)  # noqa: S607


async def test_a_full_disk_is_waited_for_and_shown(
    plant: Plant, api: BotApi, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "_SPACE_PAUSE", 0.2)
    monkeypatch.setattr(Settings, "spool", property(lambda _: small_disk / "spool"))
    (small_disk / "full").write_bytes(bytes(200_000))
    content = export() + os.urandom(150_000)
    api.document(ANNA, "a.zip", content)
    plant.configure(monkeypatch, keep_free_bytes=0)
    async with plant.bot():
        await plant.until(lambda: plant.states() == {"WAITING_SPACE": 1})
        await plant.until(lambda: any("1 file waits for disk space" in text for text in api.texts_to(ANNA)))
        assert not any(method == "getFile" for method, _ in api.requests)
        # The size that Telegram names may be wrong: the download itself meets the full disk.
        plant.rows("UPDATE uploads SET size_bytes = NULL")
        await plant.until(lambda: any(method == "getFile" for method, _ in api.requests))
        await plant.until(lambda: plant.uploads("reason") == [("the disk is full",)])
        (small_disk / "full").unlink()
        await plant.received(1)
    assert plant.sources() == [content]


async def test_a_long_wait_is_not_a_failed_attempt(
    plant: Plant, api: BotApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a weekend without disk space, or without the bot, one failure does not end an upload."""
    monkeypatch.setattr(uploads, "_SPACE_PAUSE", 0.1)
    plant.configure(monkeypatch, keep_free_bytes=1 << 60)
    api.document(ANNA, "a.zip", export())
    api.cut(10)
    async with plant.bot():
        await plant.until(lambda: plant.states() == {"WAITING_SPACE": 1})
        tried = "SELECT next_try_at FROM uploads WHERE tries = 0"
        (first,) = plant.rows(tried)
        await plant.until(lambda: plant.rows(tried) not in ([], [first]))
    plant.rows("UPDATE uploads SET seen_at = seen_at - interval '2 days', next_try_at = now()")
    plant.configure(monkeypatch, keep_free_bytes=0)
    async with plant.bot():
        await plant.received(1)


async def test_an_error_of_any_kind_ends_neither_the_bot_nor_its_other_uploads(
    plant: Plant, api: BotApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_PAUSE", 0.1)
    repair, failures = uploads.Receiver._repair, [OverflowError(), KeyError()]

    async def fails(receiver: uploads.Receiver) -> None:
        if failures:
            raise failures.pop()
        await repair(receiver)

    monkeypatch.setattr(uploads.Receiver, "_repair", fails)
    api.cut(10, 10, 10)
    api.document(ANNA, "a.zip", export())
    async with plant.bot():
        await plant.until(lambda: plant.rows("SELECT 1 FROM uploads WHERE tries > 0"))
        plant.rows(
            "UPDATE uploads SET tries = 5000, next_try_at = now()"
        )  # no number can be doubled so often
        await plant.until(lambda: plant.rows("SELECT 1 FROM uploads WHERE tries > 5000"))
        api.document(BORIS, "b.zip", export(2))
        await plant.received(1)
    assert failures == []


async def test_downloads_at_the_same_time_share_the_space(
    plant: Plant, api: BotApi, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "_SPACE_PAUSE", 0.2)
    monkeypatch.setattr(Settings, "spool", property(lambda _: small_disk / "spool"))
    plant.configure(monkeypatch, keep_free_bytes=50_000)
    for number in range(2):
        api.document(ANNA, f"{number}.zip", export(number) + os.urandom(150_000))
    async with plant.bot():
        with api.hold("download") as reached:
            await asyncio.to_thread(reached.wait)
            await plant.until(lambda: plant.states() == {"SEEN": 1, "WAITING_SPACE": 1})
            assert sum(method == "getFile" for method, _ in api.requests) == 1
        await plant.received(2)


async def test_space_is_kept_free(plant: Plant, api: BotApi, monkeypatch: pytest.MonkeyPatch) -> None:
    plant.configure(monkeypatch, keep_free_bytes=shutil.disk_usage("/").total + (1 << 50))
    api.document(ANNA, "a.zip", export())
    async with plant.bot():
        await plant.until(lambda: plant.states() == {"WAITING_SPACE": 1})


@pytest.mark.parametrize(("chat", "apart"), [(ANNA, 0.2), (-100500, 0.4)])
async def test_new_messages_to_a_chat_are_as_far_apart_as_telegram_asks_for(
    chat: int, apart: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chats, "_APART", 0.2)
    monkeypatch.setattr(chats, "_APART_IN_GROUP", 0.4)
    clock = asyncio.get_running_loop().time

    async def request() -> float:
        return clock()

    sender = chats.Chats()
    first, second = await asyncio.gather(*(sender.send(chat, request) for _ in range(2)))
    assert second - first >= apart
