"""What operators configure and see: the block, conditions, metrics, `tdp bot status`, retention."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from bot_api import BOT_ID, TOKEN, BotApi
from bot_plant import ANNA, BORIS, Plant, export
from pydantic import SecretStr

from blocks import TELEGRAM, TelegramBot
from flows import services
from flows.bot import service
from flows.bot.config import CLOUD_BYTES, LOCAL_BYTES, load_config
from flows.ledger.session import connect
from flows.maintain import forget_senders
from flows.monitor.health import Monitor
from flows.monitor.metrics import Metrics
from flows.settings import Settings

BOT = "INSERT INTO bots (bot_id, name, host, pid, polled_at) VALUES (7, 'exports_bot', 'here', 1, now())"


@pytest.fixture
async def block(installation: Settings) -> Iterator[TelegramBot]:
    """The block of the bot, as a new installation has it."""
    document = TelegramBot(api_base_url="https://api.telegram.org")
    await document.asave(TELEGRAM, overwrite=True)
    return document


async def test_the_configuration_is_that_of_the_block(installation: Settings, block: TelegramBot) -> None:
    assert load_config(installation) is None  # no token: no bot
    env = installation.model_copy(update={"bot_token": SecretStr("5:env"), "bot_uploaders": frozenset({1})})
    config = load_config(env)
    assert config
    assert (config.token, config.bot_id, config.uploaders, config.admins) == ("5:env", 5, {1}, frozenset())
    assert (config.max_bytes, config.announces, config.local_mode) == (CLOUD_BYTES, True, False)
    block.token, block.uploaders, block.admins = SecretStr(TOKEN), [ANNA], [BORIS]
    block.api_base_url, block.local_mode, block.announcements = "http://127.0.0.1:8081/", True, False
    block.path_map, block.keep_free_gb = {"/theirs": "/ours"}, 5
    await block.asave(TELEGRAM, overwrite=True)
    config = load_config(installation)
    assert config
    assert (config.token, config.uploaders, config.admins) == (TOKEN, {ANNA}, {BORIS})
    assert (config.api_url, config.local_mode, config.announces) == ("http://127.0.0.1:8081", True, False)
    assert (config.max_bytes, config.path_map) == (LOCAL_BYTES, {"/theirs": "/ours"})
    assert config.keep_free_bytes == 5_000_000_000
    block.size_limit_mb = 50
    await block.asave(TELEGRAM, overwrite=True)
    limited = load_config(installation)
    assert limited
    assert limited.max_bytes == 50 << 20
    block.local_mode = False  # Telegram's own servers hand out no more than they do
    await block.asave(TELEGRAM, overwrite=True)
    limited = load_config(installation)
    assert limited
    assert limited.max_bytes == CLOUD_BYTES
    assert config.only_exports
    other = load_config(env)
    assert other
    assert (other.token, other.uploaders) == ("5:env", {ANNA})
    shown = repr(await TelegramBot.aload(TELEGRAM))
    assert TOKEN not in shown


async def test_a_change_of_the_block_takes_effect_while_the_bot_runs(
    installation: Settings, block: TelegramBot, api: BotApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_CONFIG_EVERY", 0.2)
    monkeypatch.setattr("flows.bot.api.POLL_SECONDS", 1)
    monitor = {"monitor_port": services.free_port()}
    plant = Plant(installation.model_copy(update=monitor), api)
    async with plant.bot():
        block.token, block.api_base_url = SecretStr(TOKEN), api.url
        await block.asave(TELEGRAM, overwrite=True)
        await plant.until(lambda: plant.rows("SELECT 1 FROM bots WHERE polled_at IS NOT NULL"))
        api.document(ANNA, "a.zip", export())
        await plant.until(lambda: api.texts_to(ANNA))
        assert plant.uploads() == []
        block.uploaders, block.announcements = [ANNA], False
        await block.asave(TELEGRAM, overwrite=True)

        def is_listed() -> bool:
            if not plant.uploads():
                api.document(ANNA, "a.zip", export())
            return bool(plant.uploads())

        await plant.until(is_listed)
        await plant.until(lambda: "SEEN" not in plant.states())
        await plant.until(lambda: plant.rows("SELECT 1 FROM announcements WHERE given_up IS NOT NULL"))
        block.token = None
        await block.asave(TELEGRAM, overwrite=True)
        await plant.until(lambda: plant.rows("SELECT 1 FROM bots WHERE stopped_at IS NOT NULL"))
    assert len(api.texts_to(ANNA)) == 1


def firing(plant: Plant) -> dict[str, str]:
    conditions = Monitor(plant.settings).health().conditions
    return {name: c.detail for name, c in conditions.items() if c.firing and ("bot" in name or "up" in name)}


def test_conditions(plant: Plant) -> None:
    plant.settings.root.mkdir()
    assert firing(plant) == {}
    plant.rows(BOT)
    assert firing(plant) == {}
    plant.rows("UPDATE bots SET polled_at = now() - interval '4 minutes', error = 'TimedOut'")
    assert firing(plant) == {"bot_silent": "@exports_bot has not polled for 4 min 00 s: TimedOut"}
    plant.rows("UPDATE bots SET conflict_at = now() - interval '1 minute', polled_at = now()")
    assert firing(plant) == {"bot_conflict": "another process polls @exports_bot"}
    plant.rows("UPDATE bots SET conflict_at = now() - interval '3 minutes'")
    assert firing(plant) == {}
    plant.rows("UPDATE bots SET polled_at = now() - interval '4 days', stopped_at = now()")
    assert firing(plant) == {}
    plant.rows("INSERT INTO announcements (bot_id, chat_id, user_id) VALUES (7, 1, 1)")
    plant.rows(
        "INSERT INTO uploads (bot_id, chat_id, message_id, user_id, user_name, file_id, file_name, reason,"
        " seen_at, announcement_id) SELECT 7, 1, 1, 1, 'Anna', 'x', 'a.zip', 'TimedOut',"
        " now() - interval '31 minutes', announcement_id FROM announcements"
    )
    plant.rows("INSERT INTO bot_updates (bot_id, content, error) VALUES (7, '{}', 'KeyError')")
    plant.rows(
        "INSERT INTO uploads (bot_id, chat_id, message_id, user_id, user_name, file_id, file_name,"
        " seen_at, announcement_id) SELECT 7, 1, 2, 1, 'Anna', 'x', 'a.zip', now(), announcement_id"
        " FROM announcements"
    )
    plant.rows("UPDATE uploads SET upload_id = DEFAULT WHERE message_id = 1")  # a younger one comes first
    found = "1 upload not received: TimedOut; 1 update of the last day could not be read"
    assert firing(plant) == {"uploads_stuck": found}
    text = Metrics(Monitor(plant.settings)).text().decode()
    assert 'tdp_uploads{state="seen"} 2.0' in text
    assert "tdp_announcements_waiting 1.0" in text


def test_status(plant: Plant) -> None:
    def status(*options: str) -> str:
        command = [sys.executable, "-m", "flows.cli", "bot", "status", *options]
        env = os.environ | plant.environment()
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout

    assert "No bot has polled yet" in status()
    plant.rows(BOT)
    plant.rows("UPDATE bots SET conflict_at = now(), error = 'Conflict'")
    shown = status()
    for part in ("@exports_bot", "does not run", "pid 1 on here", "Another poller", "Conflict", "none"):
        assert part in shown
    assert '"is_polling": false' in status("--json")


async def test_retention_forgets_senders_with_their_files(plant: Plant, api: BotApi) -> None:
    for user, name in ((ANNA, "old.zip"), (BORIS, "kept.zip")):
        api.document(user, name, export(user), first_name=name)
    api.document(ANNA, "big.zip", b"", size=25 << 20)
    api.message(9009, text="who are you?")
    api.update({"message": "poison of Anna"})
    async with plant.bot():
        await plant.received(2)
        await plant.until(lambda: api.texts_to(9009) and len(api.reactions) == 2)
    plant.rows("UPDATE uploads SET seen_at = seen_at - interval '40 days'")
    plant.rows("UPDATE announcements SET created_at = created_at - interval '40 days'")
    plant.rows("UPDATE bot_strangers SET answered_at = answered_at - interval '40 days'")
    plant.rows("UPDATE bot_updates SET received_at = received_at - interval '40 days'")
    plant.rows("UPDATE source_files SET purged_at = now() WHERE name = 'old.zip'")
    async with await connect(plant.settings.database, "test") as session:
        assert await forget_senders(session, 30) == 2
    assert plant.uploads("file_name", "user_id") == [("kept.zip", BORIS)]
    tables = ("announcements", "announcement_messages", "bot_strangers", "bot_updates", "receipts")
    left = {table: str(plant.rows(f"SELECT * FROM {table}")) for table in tables}  # noqa: S608
    assert str(ANNA) not in str(left)
    assert "9009" not in str(left)
    assert "poison" not in str(left)
    assert str(BORIS) in left["receipts"]
    assert plant.rows("SELECT bot_id FROM bots")[0]["bot_id"] == BOT_ID
