"""Receiving documents: from whom, what of them, and what the network does meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from bot_api import ANONYMOUS_ADMIN, BotApi
from bot_api_server import bot_api, serving
from bot_plant import ADMIN, ANNA, BORIS, STRANGER, Plant, export

from flows.bot import texts
from flows.bot.config import Config
from flows.bot.updates import safe_name

GROUP = -100200300


async def test_a_document_becomes_a_source_file_with_its_origin(plant: Plant, api: BotApi) -> None:
    message = api.document(ANNA, "chat.zip", export())
    async with plant.bot():
        await plant.received(1)
        await plant.until(lambda: not plant.spooled())
        await plant.until(lambda: api.reactions == {(ANNA, message): "👍"})
    assert plant.sources() == [export()]
    (receipt,) = plant.rows("SELECT r.origin, s.name FROM receipts r JOIN source_files s USING (source_id)")
    assert receipt == {"origin": f"telegram:{ANNA}/{message}", "name": "chat.zip"}
    assert api.pending == []


async def test_an_album_of_ten_and_one_name_twice(plant: Plant, api: BotApi) -> None:
    for number in range(10):
        api.document(ANNA, "export.zip", export(number), media_group_id="77")
    async with plant.bot():
        await plant.received(10)
    assert sorted(plant.sources()) == sorted(map(export, range(10)))
    assert len({group for (group,) in plant.uploads("announcement_id")}) == 1


async def test_the_same_content_is_stored_once(plant: Plant, api: BotApi) -> None:
    api.document(ANNA, "a.zip", export())
    api.document(BORIS, "b.zip", export())
    async with plant.bot():
        await plant.received(2)
    assert sorted(plant.uploads("source_id", "duplicate")) == [(1, False), (1, True)]


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("../../x.zip", "x.zip"),
        ("..\\..\\x.zip", "x.zip"),
        ("/etc/passwd", "passwd"),
        ("..", "document"),
        ("", "document"),
        ("a\0b\n.zip", "a_b_.zip"),
        (".hidden.zip", "hidden.zip"),
        ("ы" * 300 + ".zip", "ы" * 88 + ".zip"),
        ("\udcff.zip", "_.zip"),
        ("gpj.\u202epiz.exe", "gpj._piz.exe"),
    ],
)
def test_a_file_name_is_data(sent: str, name: str) -> None:
    assert safe_name(sent) == name


async def test_names_stay_in_their_folder_of_the_spool(plant: Plant, api: BotApi) -> None:
    message = api.document(ANNA, "../../x.zip", export())
    with plant.locked("SELECT pg_advisory_lock(1952739433, 0)"):
        async with plant.bot():
            await plant.until(lambda: plant.spooled() == [f"{ANNA}-{message}/x.zip"])
    assert list(plant.settings.root.parent.glob("**/x.zip")) == [
        plant.settings.spool / f"{ANNA}-{message}" / "x.zip"
    ]


async def test_a_replay_and_other_update_ids_change_nothing(plant: Plant, api: BotApi) -> None:
    api.document(ANNA, "a.zip", export())
    (update,) = api.pending
    async with plant.bot():
        await plant.received(1)
        await plant.until(lambda: not api.pending)
        api.replay(update)
        await plant.until(lambda: not api.pending)
        # After a week without updates, ids start at another number: lower ones are not acknowledged. The poll
        # that is under way began after an answer without updates.
        polls = len(api.requests)
        api.message(ANNA, text="hello")
        await plant.until(lambda: len(api.requests) > polls and not api.pending)
        await plant.until(lambda: "offset" not in api.requests[-1][1])
        api.restart_ids(5)
        api.document(ANNA, "b.zip", export(2))
        await plant.received(2)
    assert plant.sources() == [export(), export(2)]
    # The bot did not run for more than a day: what was sent meanwhile is gone, what is sent now is not.
    api.document(ANNA, "lost.zip", export(3))
    api.expire_updates()
    api.document(ANNA, "c.zip", export(4))
    async with plant.bot():
        await plant.received(3)
    assert plant.uploads("file_name") == [("a.zip",), ("b.zip",), ("c.zip",)]


async def test_strangers_channels_and_the_anonymous_admin(plant: Plant, api: BotApi) -> None:
    for _ in range(3):
        api.document(STRANGER, "a.zip", export())
    api.message(STRANGER, text="/batches")
    api.message(STRANGER, chat=GROUP, text="talk in a group")
    api.channel_post(-100900, "c.zip", export())
    title = {"id": GROUP, "type": "supergroup", "title": "Exports"}
    api.document(ANONYMOUS_ADMIN, "d.zip", export(), chat=GROUP, sender_chat=title)
    api.document(ANNA, "e.zip", export(), chat=GROUP, sender_chat=title)
    async with plant.bot(bot_uploaders=frozenset({ANNA, ANONYMOUS_ADMIN, 1})):
        await plant.until(lambda: not api.pending)
        await plant.until(lambda: api.said)
        api.document(ANNA, "f.zip", export(), chat=GROUP)
        await plant.received(1)
    assert plant.uploads() == [("f.zip", "RECEIVED")]
    answers = [said for said in api.said if said.chat != GROUP]
    assert [(said.chat, str(STRANGER) in said.text) for said in answers] == [(STRANGER, True)]


async def test_the_loss_of_a_file_that_replaces_another_in_its_message_is_reported(
    plant: Plant, api: BotApi
) -> None:
    first = api.document(ANNA, "a.zip", export())
    async with plant.bot():
        await plant.received(1)
        api.document(ANNA, "a.zip", export(), edits=first, caption="now with a caption")
        api.document(STRANGER, "b.zip", export(2), edits=99)
        api.message(ANNA, text="/health", edits=98)
        await plant.until(lambda: not api.pending)
        api.document(ANNA, "a.zip", export(2, messages=9), edits=first)
        await plant.until(lambda: texts.REPLACED in api.texts_to(ANNA))
    assert plant.uploads() == [("a.zip", "RECEIVED")]
    assert [text for text in api.texts_to(ANNA) if not text.startswith("Received")] == [texts.REPLACED]
    assert api.texts_to(STRANGER) == []


async def test_a_large_file_is_refused_at_once_with_the_remedies(plant: Plant, api: BotApi) -> None:
    api.document(ANNA, "big.zip", b"", size=25 << 20)
    api.document(ANNA, "lies.zip", bytes((20 << 20) + 1), size=7)
    async with plant.bot():
        await plant.until(lambda: plant.states() == {"REFUSED": 2})
        await plant.until(lambda: any("lies.zip" in text for text in api.texts_to(ANNA)))
    assert [given for method, given in api.requests if method == "getFile"] == [{"file_id": "BQAC000001"}]
    for (reason,) in plant.uploads("reason"):
        assert "over 20 MB" in reason
        assert "inbox folder" in reason
        assert "Bot API server of their own" in reason


async def test_a_document_that_is_not_an_export_is_refused_with_the_reason(plant: Plant, api: BotApi) -> None:
    api.document(ANNA, "photo.jpg", b"\xff\xd8\xff\xe0" + bytes(5000))
    async with plant.bot():
        await plant.until(lambda: plant.states() == {"REFUSED": 1})
        await plant.until(lambda: not plant.spooled())
    assert "neither an archive nor an export" in plant.uploads("reason")[0][0]
    assert plant.sources() == []


async def test_a_poison_update_does_not_block_the_next(plant: Plant, api: BotApi) -> None:
    api.update({"message": {"message_id": "nine", "date": None, "chat": {"id": {}}}})
    api.update({"message": ["\0", "\ud800"]})
    api.document(ANNA, "a.zip", export())
    async with plant.bot():
        await plant.received(1)
    kept = plant.rows("SELECT content, error FROM bot_updates ORDER BY update_id")
    assert [('"nine"' in row["content"], bool(row["error"])) for row in kept] == [(True, True), (False, True)]


async def test_a_link_that_died_and_a_download_that_was_cut(plant: Plant, api: BotApi) -> None:
    api.cut(10)
    api.document(ANNA, "a.zip", export())
    with plant.locked("SELECT pg_advisory_lock(1952739433, 0)"):
        async with plant.bot():
            await plant.until(lambda: plant.uploads("tries")[:1] == [(1,)])
            api.expire_links()
            await plant.until(lambda: any(name.endswith("a.zip") for name in plant.spooled()))
    async with plant.bot():
        await plant.received(1)
    assert plant.sources() == [export()]
    assert sum(method == "getFile" for method, _ in api.requests) == 2


async def test_a_pause_that_telegram_asks_for_is_not_a_failed_attempt(plant: Plant, api: BotApi) -> None:
    api.fail("getupdates", 429, "Too Many Requests: retry after 1", retry_after=1)
    api.fail("getFile", 429, "Too Many Requests: retry after 1", retry_after=1)
    api.document(ANNA, "a.zip", export())
    async with plant.bot():
        await plant.received(1)
    assert plant.uploads("tries") == [(0,)]


async def test_an_unavailable_server_is_waited_for(plant: Plant, api: BotApi) -> None:
    port = int(api.url.rpartition(":")[2])
    api.drop("getupdates")
    api.fail("getFile", 500, "Internal Server Error")
    api.document(ANNA, "a.zip", export())
    async with plant.bot():
        await plant.received(1)
    other = BotApi()
    with serving(other):
        port = int(other.url.rpartition(":")[2])
    async with plant.bot(bot_api_url=f"http://127.0.0.1:{port}"):
        await asyncio.sleep(0)
        with serving(other, port):
            other.message(ANNA, text="hello")
            await plant.until(lambda: not other.pending and other.delivered)


@pytest.mark.parametrize("is_mapped", [False, True])
async def test_local_mode_takes_files_of_any_size_from_the_server(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_mapped: bool
) -> None:
    with bot_api(local=tmp_path / "api") as api:
        plant.api = api
        paths = {}
        if is_mapped:
            theirs, ours = tmp_path / "api", tmp_path / "mounted"
            paths = {str(theirs): str(ours)}
            ours.symlink_to(theirs)
        large = export() + bytes(21 << 20)
        api.document(ANNA, "a.zip", large)
        plant.configure(monkeypatch, local_mode=True, max_bytes=2000 << 20, path_map=paths)
        async with plant.bot():
            await plant.received(1)
    assert plant.sources() == [large]
    assert [path for path in (tmp_path / "api").rglob("*") if path.is_file()] == []


async def test_two_processes_and_a_poller_elsewhere(plant: Plant, api: BotApi) -> None:
    """One process polls; the next one starts to poll when it ends. A poller without this ledger is
    reported."""
    from flows.bot.api import get_updates, make_bot

    async with plant.bot():
        await plant.until(lambda: plant.rows("SELECT 1 FROM bots WHERE polled_at IS NOT NULL"))
        async with plant.bot():
            await asyncio.sleep(0.5)
            assert not plant.rows("SELECT 1 FROM bots WHERE conflict_at IS NOT NULL")
            async with make_bot(Config(api.token, api.url)) as other:
                await get_updates(other, None, 0)
            await plant.until(lambda: plant.rows("SELECT 1 FROM bots WHERE conflict_at IS NOT NULL"))
            polled = "SELECT 1 FROM bots WHERE polled_at > conflict_at AND error IS NULL"
            api.document(ANNA, "a.zip", export())
            await plant.received(1)
            await plant.until(lambda: plant.rows(polled))
    assert plant.rows("SELECT 1 FROM bots WHERE stopped_at IS NOT NULL")


async def test_uploaders_take_turns_in_downloads(plant: Plant, api: BotApi) -> None:
    for number in range(8):
        api.document(ANNA, f"a{number}.zip", export(number))
    api.document(BORIS, "b.zip", export(99))
    async with plant.bot():
        await plant.received(9)
    fetched = [given["file_id"] for method, given in api.requests if method == "getFile"]
    # The first downloads begin before the last document is seen; the turns decide on those that follow.
    assert fetched.index("BQAC000008") < fetched.index("BQAC000007")


async def test_admins_may_upload(plant: Plant, api: BotApi) -> None:
    api.document(ADMIN, "a.zip", export())
    async with plant.bot():
        await plant.received(1)
