"""Commands of uploaders and admins, conditions for admins, and the token that nothing shows."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import psutil
import pytest
from bot_api import TOKEN, BotApi
from bot_plant import ADMIN, ANNA, Plant, export

from flows.bot import conditions
from flows.bot.config import Config, load_config
from flows.errors import DatabaseUnavailable
from flows.monitor import monitor
from flows.monitor.health import Monitor
from flows.settings import Settings

BATCH = """
WITH batch AS (
    INSERT INTO batch_processing (status, file_count, error_message)
    VALUES ('FAILED', 1, 'the disk is broken') RETURNING batch_id
)
INSERT INTO batch_files (batch_id, source_id, position) SELECT batch_id, source_id, 1 FROM batch, source_files
"""


BATCHES = """
WITH batches AS (
    INSERT INTO batch_processing (status, file_count) SELECT 'FAILED', 1 FROM source_files RETURNING batch_id
)
INSERT INTO batch_files (batch_id, source_id, position)
SELECT batch_id, right(batch_id, 6)::integer, 1 FROM batches
"""


async def ask(plant: Plant, user: int, text: str, chat: int = 0) -> str:
    """Send a message; return the answer to it."""
    message = plant.api.message(user, text=text, chat=chat)

    def answer() -> str | None:
        sent = [given for method, given in plant.api.requests if method == "sendMessage"]
        replies = {json.loads(given.get("reply_parameters", "{}")).get("message_id"): given for given in sent}
        return replies[message]["text"] if message in replies else None

    return str(await plant.until(answer))


async def test_commands_of_an_uploader(plant: Plant, api: BotApi) -> None:
    async with plant.bot():
        assert "each file at most 20 MB" in await ask(plant, ANNA, "/help")
        assert "For admins" not in await ask(plant, ANNA, "/start@exports_bot")
        assert await ask(plant, ANNA, "/status") == "None of your files is being processed."
        assert await ask(plant, ANNA, "/batches") == "None of your files is in a batch."
        assert "as files (documents)" in await ask(plant, ANNA, "good morning")
        api.document(ANNA, "a.zip", export())
        await plant.received(1)
        assert await ask(plant, ANNA, "/status") == "Received 1 of 1 file.\nNow: 1 waiting."
        plant.rows(BATCH)
        assert await ask(plant, ANNA, "/batches") == "batch_000001: failed, 1 file of yours"
        assert "Done in the last 30 days: 1 file" in await ask(plant, ANNA, "/status")
        for command in ("/retry batch_000001", "/timeline", "/health", "/nothing"):
            assert (await ask(plant, ANNA, command)).startswith("Send me exports of Telegram Desktop")


async def test_what_is_answered_in_a_group(plant: Plant, api: BotApi) -> None:
    """Others read it: only what was sent there counts, and commands of other bots are not answered."""
    team = -100500
    async with plant.bot():
        for number in range(3):
            api.document(ANNA, f"private {number}.zip", export(number))
        await plant.received(3)
        api.document(ANNA, "team.zip", export(9), chat=team)
        await plant.received(4)
        other = api.message(ANNA, chat=team, text="/roll 20")
        assert await ask(plant, ANNA, "/status", chat=team) == "Received 1 of 1 file.\nNow: 1 waiting."
        assert "4 of 4" in await ask(plant, ANNA, "/status")
        plant.rows(BATCHES)
        assert await ask(plant, ANNA, "/batches", chat=team) == "batch_000004: failed, 1 file of yours"
        assert len((await ask(plant, ANNA, "/batches")).splitlines()) == 4
        assert "Done in the last 30 days: 1 file," in await ask(plant, ANNA, "/status", chat=team)
        assert (await ask(plant, ANNA, "/roll@exports_bot", chat=team)).startswith("Send me exports")
        assert (await ask(plant, ANNA, "/help", chat=team)).startswith("Send me exports")
    sent = [given for method, given in api.requests if method == "sendMessage"]
    assert other not in [json.loads(given["reply_parameters"])["message_id"] for given in sent]


async def test_a_sender_of_many_files(plant: Plant, api: BotApi) -> None:
    async with plant.bot():
        api.document(ANNA, "a.zip", export())
        await plant.received(1)
        plant.rows(
            "INSERT INTO uploads (bot_id, chat_id, message_id, user_id, user_name, file_id, file_name, state,"
            " source_id, announcement_id, reacted_at) SELECT bot_id, chat_id, 1000 + n, user_id, '', '', 'x',"
            " 'RECEIVED', source_id, announcement_id, now() FROM uploads, generate_series(1, 499) n"
        )
        assert await ask(plant, ANNA, "/status") == "Received 500 of 500 files.\nNow: 500 waiting."
        plant.rows(BATCH)
        assert await ask(plant, ANNA, "/batches") == "batch_000001: failed, 500 files of yours"


async def test_fifty_photos_get_one_answer(plant: Plant, api: BotApi) -> None:
    photo = [{"file_id": "p", "file_unique_id": "p", "width": 1, "height": 1}]
    for _ in range(50):
        api.message(ANNA, photo=photo, media_group_id="7")
    async with plant.bot():
        await plant.until(lambda: not api.pending)
        assert await ask(plant, ANNA, "/status") == "None of your files is being processed."
    assert len(api.texts_to(ANNA)) == 2


async def test_a_command_that_fails_is_answered(
    plant: Plant, api: BotApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with plant.bot():
        await plant.until(lambda: plant.rows("SELECT 1 FROM bots WHERE polled_at IS NOT NULL"))
        monkeypatch.setattr("flows.bot.commands.connection", unavailable)
        answer = "This is not possible at the moment: PostgreSQL is being restarted"
        assert await ask(plant, ADMIN, "/batches") == answer
    # What is longer than a message is cut, not lost.
    lines = {f"c{number}": {"ok": False, "detail": "x" * 300} for number in range(40)}

    async def long(_: object) -> dict[str, object]:
        return {"status": "failing", "components": lines, "conditions": {}}

    monkeypatch.setattr("flows.bot.commands.read_health", long)
    async with plant.bot():
        assert "more lines." in await ask(plant, ADMIN, "/health")


def unavailable(*_: object, **__: object) -> None:
    raise DatabaseUnavailable("PostgreSQL is being restarted")


async def test_commands_of_an_admin(plant: Plant, api: BotApi) -> None:
    api.document(ADMIN, "a.zip", export())
    async with plant.bot():
        await plant.received(1)
        plant.rows(BATCH)
        assert "For admins" in await ask(plant, ADMIN, "/help")
        assert await ask(plant, ADMIN, "/batches", chat=-100500) == "None of your files is in a batch."
        assert await ask(plant, ADMIN, "/batches") == (
            "batch_000001: failed, 1 file, 0 messages, the disk is broken"
        )
        assert "extract: free; 0 waiting\n" in await ask(plant, ADMIN, "/status")
        assert await ask(plant, ADMIN, "/timeline") == "No run has processed batches."
        assert await ask(plant, ADMIN, "/health") == "The monitor does not respond."
        assert "Name a batch" in await ask(plant, ADMIN, "/retry 42; DROP TABLE uploads")
        assert await ask(plant, ADMIN, "/retry batch_000042") == "There is no batch batch_000042."
        assert "does not respond" in await ask(plant, ADMIN, "/retry batch_000001")  # there is no server here
        plant.rows("UPDATE batch_processing SET status = 'EXTRACTING'")
        assert "is being processed" in await ask(plant, ADMIN, "/retry batch_000001")
        plant.rows(
            "INSERT INTO run_batches (flow_run_id, position, batch_id)"
            " VALUES (gen_random_uuid(), 0, 'batch_000001')"
        )
        api.message(ADMIN, text="/timeline")
        await plant.until(lambda: api.photos)
        (picture,) = api.photos.values()
        assert picture.startswith(b"\x89PNG")


async def test_conditions_go_to_admins_also_without_prefect(
    plant: Plant, api: BotApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "_LOOK_EVERY", 0.2)
    with monitor(plant.settings, plant.settings.monitor_port):
        async with plant.bot():
            await plant.until(lambda: any("🔔 prefect_server_down" in text for text in api.texts_to(ADMIN)))
            assert "❌ prefect_server" in await ask(plant, ADMIN, "/health")
        before = len([text for text in api.texts_to(ADMIN) if "prefect_server_down" in text])
        async with plant.bot():  # it was sent before the restart
            await plant.until(lambda: plant.rows("SELECT 1 FROM bots WHERE raised ? 'worker_down'"))
            await asyncio.sleep(1)
    async with plant.bot():
        await plant.until(lambda: any("🔔 monitor_down" in text for text in api.texts_to(ADMIN)))
        assert not any("🔕" in text for text in api.texts_to(ADMIN))
        with monitor(plant.settings, plant.settings.monitor_port):
            await plant.until(lambda: any("🔕 monitor_down: over" in text for text in api.texts_to(ADMIN)))
    assert before == 1
    assert sum("🔔 prefect_server_down" in text for text in api.texts_to(ADMIN)) == 1
    assert api.texts_to(ANNA) == []


async def test_the_token_is_in_no_log_ledger_or_command_line(plant: Plant, api: BotApi) -> None:
    api.fail("getupdates", 401, f"Unauthorized: {TOKEN}", times=2)
    api.fail("getFile", 400, f"Bad Request: https://api.telegram.org/bot{TOKEN}/getFile", times=1)
    api.cut(10)
    api.document(ANNA, "a.zip", export())
    with plant.process() as process:
        await plant.until(lambda: plant.rows("SELECT 1 FROM uploads WHERE reason LIKE '%%<token>%%'"))
        await plant.received(1)
        assert TOKEN not in " ".join(psutil.Process(process.pid).cmdline())
    log = plant.log.read_text()
    assert "<token>" in log
    assert TOKEN.lower() not in log.lower()
    for table in ("bots", "uploads", "bot_updates", "announcement_messages"):
        assert TOKEN.lower() not in str(plant.rows(f"SELECT * FROM {table}")).lower()  # noqa: S608


def test_a_traceback_shows_no_token() -> None:
    code = (
        "from flows.bot import logs; from telegram import Bot; import httpx, logging\n"
        f"logs.set_up(); logs.hide({TOKEN!r}); bot = Bot({TOKEN!r})\n"
        "logging.getLogger('flows.bot').info('%r', bot)\n"
        "raise RuntimeError(repr(bot)) from httpx.HTTPError(f'https://api.telegram.org/bot{bot.token}/getMe')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("<token>") >= 3
    assert TOKEN not in done.stderr
    assert "The bot ends" in done.stderr


def test_the_token_is_not_in_the_representation_of_the_settings(plant: Plant) -> None:
    assert TOKEN not in repr(plant.settings)
    assert Config(TOKEN).redact(f"https://api.telegram.org/bot{TOKEN}/getMe") == (
        "https://api.telegram.org/bot<token>/getMe"
    )


async def test_a_token_that_telegram_rejects_is_reported(plant: Plant, api: BotApi) -> None:
    api.token = "1:other"  # noqa: S105
    with plant.process() as process:
        await plant.until(lambda: "restarts" in plant.log.read_text())
        assert process.poll() is None
        # Also of a bot that has never polled: its name is not known yet.
        (bot,) = plant.rows("SELECT name, error, polled_at FROM bots WHERE stopped_at IS NULL")
        assert (bot["name"], bot["polled_at"]) == (TOKEN.partition(":")[0], None)
        assert "rejected" in bot["error"]
    plant.rows("UPDATE bots SET started_at = now() - interval '4 minutes'")
    assert "has not polled for 4 min" in Monitor(plant.settings).health().conditions["bot_silent"].detail
    assert TOKEN not in plant.log.read_text()


async def test_an_unavailable_prefect_server_is_waited_for(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token is in the block, which cannot be read yet."""
    tries: list[Settings] = []

    def load(settings: Settings) -> Config | None:
        tries.append(settings)
        return load_config(settings)

    monkeypatch.setattr("flows.bot.service._PAUSE", 0.1)
    monkeypatch.setattr("flows.bot.service.load_config", load)
    async with plant.bot(bot_token=None):
        await plant.until(lambda: len(tries) > 1, 20)
