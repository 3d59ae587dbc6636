"""The bot against the stand-in Bot API server, on a real PostgreSQL: in this process or in its own."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
from bot_api import TOKEN, BotApi
from psycopg.rows import dict_row

from flows.bot import service
from flows.bot.config import Config
from flows.settings import Settings

#: Numeric ids of users: two uploaders, an admin, and one who is on no list.
ANNA, BORIS, ADMIN, STRANGER = 1001, 1002, 1003, 9009
T = TypeVar("T")


def export(number: int = 1, messages: int = 2) -> bytes:
    """Return a ZIP with the export of one chat."""
    rows = [
        {
            "id": index,
            "type": "message",
            "date": "2024-05-01T12:00:00",
            "date_unixtime": "1714564800",
            "from": "Anna",
            "from_id": f"user{number}",
            "text": f"message {index} of chat {number}",
            "text_entities": [],
        }
        for index in range(1, messages + 1)
    ]
    chat = {"name": f"Chat {number}", "type": "personal_chat", "id": 7000 + number, "messages": rows}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(zipfile.ZipInfo("result.json"), json.dumps(chat))
    return packed.getvalue()


class Plant:
    """One installation with a bot; ``api`` is its Bot API server."""

    def __init__(self, settings: Settings, api: BotApi) -> None:
        self.settings = settings
        self.api = api
        self.log = settings.root / "bot.log"
        self.pid = 0

    def configure(self, monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
        """Let the bot find this configuration instead of that in the environment."""
        given = {"token": self.api.token, "api_url": self.api.url, "uploaders": self.settings.bot_uploaders}
        config = Config(**given | changed)
        monkeypatch.setattr(service, "load_config", lambda _: config)

    def rows(self, statement: str, *values: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.settings.database, row_factory=dict_row, autocommit=True) as ledger:
            cursor = ledger.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def uploads(self, *columns: str) -> list[tuple[Any, ...]]:
        rows = self.rows("SELECT * FROM uploads ORDER BY upload_id")
        return [tuple(row[name] for name in columns or ("file_name", "state")) for row in rows]

    def states(self) -> dict[str, int]:
        rows = self.rows("SELECT state, count(*) AS uploads FROM uploads GROUP BY state")
        return {row["state"]: row["uploads"] for row in rows}

    def sources(self) -> list[bytes]:
        """Return the contents of all source files as they are on the disk."""
        rows = self.rows("SELECT stored_path FROM source_files ORDER BY source_id")
        return [Path(row["stored_path"]).read_bytes() for row in rows]

    def spooled(self) -> list[str]:
        spool = self.settings.spool
        return sorted(str(path.relative_to(spool)) for path in spool.rglob("*") if path.is_file())

    async def until(self, check: Callable[[], T], seconds: float = 60) -> T:
        """Return the first true result of ``check``."""
        deadline = time.monotonic() + seconds
        while not (found := await asyncio.to_thread(check)):
            assert time.monotonic() < deadline, self.facts()
            await asyncio.sleep(0.05)
        return found

    def facts(self) -> str:
        """Return what a failed test should show."""
        log = self.settings.logs / "bot.log"
        logs = [path.read_text()[-4000:] for path in (self.log, log) if path.exists()]
        tables = ("uploads", "announcements", "batch_processing", "announcement_messages")
        rows = [f"{table}: {self.rows(f'SELECT * FROM {table}')}" for table in tables]  # noqa: S608
        return "\n".join([*rows, *logs])

    async def received(self, number: int) -> None:
        await self.until(lambda: self.states().get("RECEIVED") == number)

    @asynccontextmanager
    async def bot(self, **changed: Any) -> AsyncIterator[None]:
        """Run the bot in this process until the block ends."""
        task = asyncio.create_task(service.run(self.settings.model_copy(update=changed)))
        try:
            yield
            assert not task.done()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def environment(self) -> dict[str, str]:
        settings = self.settings
        return os.environ | {
            "TDP_HOME": str(settings.root),
            "TDP_DATABASE_URL": settings.database,
            "TDP_SERVER_PORT": str(settings.server_port),
            "TDP_MONITOR_PORT": str(settings.monitor_port),
            "TDP_BOT_TOKEN": TOKEN,
            "TDP_BOT_API_URL": self.api.url,
            "TDP_BOT_UPLOADERS": f"{ANNA}, {BORIS}",
            "TDP_BOT_ADMINS": str(ADMIN),
        }

    @contextmanager
    def process(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the bot as a process of its own; at the end of the block it is killed as by kill -9."""
        self.settings.root.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.bot"], env=self.environment(), stdout=out, stderr=out
            )
        self.pid = process.pid
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()

    @contextmanager
    def locked(self, statement: str) -> Iterator[None]:
        """Hold the locks that a statement of a transaction acquires."""
        with psycopg.connect(self.settings.database) as holder:
            holder.execute(statement.encode())
            yield

    def waits(self, fragment: str) -> list[dict[str, Any]]:
        """Return the sessions of the bot that wait for a lock in a statement with this text."""
        return self.rows(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            " AND application_name LIKE 'tdp bot%%' AND query LIKE %s",
            f"%{fragment}%",
        )

    def end_statements(self) -> None:
        """Kill the process's waiting statements, which PostgreSQL would else complete after its death."""
        os.kill(self.pid, signal.SIGKILL)
        self.rows(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'tdp bot%%'"
        )
