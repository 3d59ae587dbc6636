"""A bot and its Bot API server for one test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bot_api import TOKEN, BotApi
from bot_api_server import bot_api
from bot_plant import ADMIN, ANNA, BORIS, Plant
from pydantic import SecretStr

from flows import services
from flows.settings import Settings


@pytest.fixture
def api() -> Iterator[BotApi]:
    with bot_api() as api:
        yield api


@pytest.fixture
def plant(database_url: str, tmp_path: Path, api: BotApi, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """An installation without a Prefect server: the bot needs none."""
    monkeypatch.setattr("flows.bot.api.POLL_SECONDS", 1)  # what a test does without an update is soon over
    monkeypatch.setattr("flows.bot.conditions._LOOK_EVERY", 3600)  # no monitor runs here
    monkeypatch.setattr("flows.bot.chats._APART", 0.02)  # test_waits.py tests the pace
    monkeypatch.setattr("flows.bot.chats._APART_IN_GROUP", 0.02)
    settings = Settings(
        home=tmp_path / "home",
        database_url=SecretStr(database_url),
        server_port=services.free_port(),
        monitor_port=services.free_port(),
        bot_token=SecretStr(TOKEN),
        bot_api_url=api.url,
        bot_uploaders=frozenset({ANNA, BORIS}),
        bot_admins=frozenset({ADMIN}),
    )
    return Plant(settings, api)
