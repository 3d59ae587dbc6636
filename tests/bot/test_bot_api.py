"""The stand-in Bot API server answers what python-telegram-bot's types parse, and behaves as the real one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from bot_api import BOT_ID, TOKEN, BotApi
from bot_api_server import bot_api
from telegram import Bot, Update
from telegram.error import BadRequest, Conflict, Forbidden, NetworkError, RetryAfter

from flows.bot.api import file_path, get_updates, is_too_big, is_unchanged, make_bot, retry_seconds
from flows.bot.config import Config


def bot_of(api: BotApi, **config: object) -> Bot:
    return make_bot(Config(token=TOKEN, api_url=api.url, **config))  # type: ignore[arg-type]


async def test_updates_are_parsed_and_acknowledged_by_the_offset_alone(api: BotApi) -> None:
    api.document(7, "chat.zip", b"abc", caption="May")
    api.message(7, text="/status")
    async with bot_of(api) as bot:
        assert (bot.id, bot.username) == (BOT_ID, "exports_bot")
        for _ in range(2):
            document, command = Update.de_list(await get_updates(bot, None), bot)
            assert document.message and document.message.document and command.message
            assert (document.message.document.file_name, document.message.document.file_size) == (
                "chat.zip",
                3,
            )
            assert list(command.message.parse_entities().values()) == ["/status"]
        first, second = api.pending
        assert await get_updates(bot, second["update_id"]) == [second]
        assert first not in api.pending


async def test_a_second_poller_ends_the_first_with_a_conflict(api: BotApi) -> None:
    async with bot_of(api) as first, bot_of(api) as second:
        waiting = asyncio.create_task(get_updates(first, None))
        while not any(method == "getupdates" for method, _ in api.requests):
            await asyncio.sleep(0.01)
        other = asyncio.create_task(get_updates(second, None))
        with pytest.raises(Conflict, match="terminated by other getUpdates"):
            await waiting
        api.message(7, text="hello")
        assert len(await other) == 1


async def test_errors_are_those_of_the_library(api: BotApi) -> None:
    async with bot_of(api) as bot:
        api.fail("sendMessage", 429, "Too Many Requests: retry after 3", retry_after=3)
        with pytest.raises(RetryAfter) as asked:
            await bot.send_message(7, "hello")
        assert retry_seconds(asked.value) == 3
        api.fail("sendMessage", 403, "Forbidden: bot was blocked by the user")
        with pytest.raises(Forbidden):
            await bot.send_message(7, "hello")
        sent = await bot.send_message(7, "hello")
        with pytest.raises(BadRequest) as unchanged:
            await bot.edit_message_text("hello", 7, sent.message_id)
        assert is_unchanged(unchanged.value)
        await bot.edit_message_text("hello you", 7, sent.message_id)
        await bot.set_message_reaction(7, 1, "👍")
        await bot.send_document(7, b"<svg/>", filename="lanes.svg", caption="lanes")
        await bot.send_photo(7, b"PNG", filename="lanes.png", caption="a photo")
        assert [*api.documents.values(), *api.photos.values()] == [b"<svg/>", b"PNG"]
        api.drop("sendMessage")
        with pytest.raises(NetworkError):
            await bot.send_message(7, "sent, but not answered")
    assert api.texts_to(7) == ["hello you", "lanes", "a photo", "sent, but not answered"]
    assert api.reactions == {(7, 1): "👍"}


async def test_links_die_and_downloads_are_cut(api: BotApi) -> None:
    api.document(7, "chat.zip", b"0123456789")
    api.document(7, "huge.zip", bytes((20 << 20) + 1))
    ids = [update["message"]["document"]["file_id"] for update in api.pending]
    async with bot_of(api) as bot, httpx.AsyncClient() as http:
        url, size = await file_path(bot, Config(TOKEN), ids[0])
        assert (size, (await http.get(url)).content) == (10, b"0123456789")
        api.cut(4)
        with pytest.raises(httpx.RemoteProtocolError, match="received 4 bytes, expected 10"):
            await http.get(url)
        api.expire_links()
        assert (await http.get(url)).status_code == 404
        with pytest.raises(BadRequest) as refused:
            await file_path(bot, Config(TOKEN), ids[1])
        assert is_too_big(refused.value)


async def test_a_server_in_local_mode_hands_out_paths(tmp_path: Path) -> None:
    with bot_api(local=tmp_path) as api:
        api.document(7, "chat.zip", b"0123456789")
        file_id = api.pending[0]["message"]["document"]["file_id"]
        config = Config(TOKEN, local_mode=True)
        async with bot_of(api) as bot:
            where, _ = await file_path(bot, config, file_id)
            assert Path(where).read_bytes() == b"0123456789"
            Path(where).unlink()
