"""The whole installation: `tdp up` with a bot, 50 documents of two senders, and a kill -9 of the bot every
few seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from bot_api import TOKEN, BotApi
from bot_plant import ADMIN, ANNA, BORIS, STRANGER, Plant, export

from flows import services
from flows.ledger.intake import cut
from flows.settings import Settings

TDP = Path(sys.executable).with_name("tdp")
BATCH_SIZE = 10
UNBATCHED = """
SELECT 1 FROM source_files s WHERE NOT EXISTS (SELECT FROM batch_files f WHERE f.source_id = s.source_id)
"""
OPEN = {"state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING"]}}}


class Installation(Plant):
    """An installation that `tdp up` runs, with its own PostgreSQL and Prefect server."""

    @contextmanager
    def up(self) -> Iterator[None]:
        screen = self.settings.root.parent / "up.log"
        environment = self.environment() | {"TDP_BATCH_SIZE": str(BATCH_SIZE)}
        del environment["TDP_DATABASE_URL"]
        with screen.open("wb") as out:
            started = subprocess.Popen(
                [TDP, "up"], env=environment, stdout=out, stderr=out, start_new_session=True
            )
        self.log = screen
        try:
            yield
            assert started.poll() is None, screen.read_text()
        finally:
            started.terminate()
            started.wait(60)

    def bot_pid(self) -> int:
        """Return the pid of the running bot; 0 while there is none."""
        try:
            record = json.loads((self.settings.root / "services.json").read_text())
            process = psutil.Process(record["services"]["bot"]["pid"])
            return process.pid if process.status() != psutil.STATUS_ZOMBIE else 0
        except (OSError, KeyError, psutil.NoSuchProcess):  # it may end between two checks
            return 0

    async def kill_bot(self) -> None:
        """Kill the bot, and wait for the next one."""
        pid = await self.until(self.bot_pid)
        os.kill(pid, signal.SIGKILL)
        await self.until(lambda: self.bot_pid() not in (0, pid))

    def send(self, method: str, path: str, **body: Any) -> Any:
        answer = httpx.request(method, f"{services.server_url(self.settings)}/api/{path}", json=body)
        return answer.raise_for_status().json()

    def has_begun(self) -> bool:
        """Return whether a batch is being processed; request a run of the inbox if nothing else has."""
        open_runs = self.send("POST", "flow_runs/filter", flow_runs=OPEN)
        if self.rows(UNBATCHED) and all(run["auto_scheduled"] for run in open_runs):
            found = self.send("GET", "deployments/name/process-inbox/scheduled")
            self.send("POST", f"deployments/{found['id']}/create_flow_run", state={"type": "SCHEDULED"})
        return bool(self.rows("SELECT 1 FROM batch_processing WHERE status <> 'QUEUED'"))

    def has_ended(self) -> bool:
        """Return whether the final messages of all uploads were sent."""
        return self.has_begun() and not self.rows("SELECT 1 FROM announcements WHERE closed_at IS NULL")

    def tdp(self, *arguments: str) -> str:
        environment = self.environment()
        del environment["TDP_DATABASE_URL"]
        done = subprocess.run([TDP, *arguments], env=environment, capture_output=True, text=True, check=True)
        return done.stdout


@pytest.fixture
def installation_folder(open_folder: Path) -> Path:
    folder = Path(tempfile.mkdtemp(dir=open_folder))
    folder.chmod(0o711)
    return folder


@pytest.mark.parametrize(
    ("number", "kills", "is_faulty"),
    [
        pytest.param(14, 2, False, id="20 documents"),
        pytest.param(44, 4, False, id="50 documents", marks=pytest.mark.matrix),
        pytest.param(194, 15, True, id="200 documents", marks=[pytest.mark.matrix, pytest.mark.timeout(900)]),
    ],
)
async def test_every_document_is_stored_once_and_every_sender_gets_its_outcomes(
    installation_folder: Path, api: BotApi, number: int, kills: int, is_faulty: bool
) -> None:
    settings = Settings(
        home=installation_folder / "home",
        server_port=services.free_port(),
        monitor_port=services.free_port(),
    )
    plant = Installation(settings, api)
    names = send_documents(api, number)
    with plant.up():
        await plant.until(lambda: b"Ready." in plant.log.read_bytes(), 120)
        for kill in range(kills):
            least = kill * number // kills
            await plant.until(lambda least=least: plant.states().get("RECEIVED", 0) >= least, 120)
            if is_faulty:
                add_faults(api)
            await plant.kill_bot()
        await plant.until(lambda: plant.states() == {"RECEIVED": number + 5, "REFUSED": 1}, 120)
        await plant.until(plant.has_begun, 120)
        await plant.kill_bot()
        await plant.until(plant.has_ended, 600 if is_faulty else 240)

        check_rows(plant, number + 3)
        check_turns(plant)
        check_messages(api, names)
        await check_operators(plant, number + 5)
    check_token(plant)


def send_documents(api: BotApi, number: int) -> dict[int, list[str]]:
    """Send ``number`` exports and a broken one of Anna, five documents of Boris, and one of a stranger.

    Returns the names of the files by sender.
    """
    names = defaultdict(list)

    def send(user: int, name: str, content: bytes, **more: Any) -> None:
        api.document(user, name, content, **more)
        names[user].append(name)

    for index in range(number):
        send(ANNA, f"anna {index:03d}.zip", export(index))
    send(ANNA, "broken.zip", export(990)[:60])
    for index in range(3):
        send(BORIS, f"boris {index}.zip", export(900 + index))
    send(BORIS, "again.zip", export(7))
    send(BORIS, "large.zip", b"", size=25 << 20)
    api.document(STRANGER, "stranger.zip", export(999))
    return names


def check_messages(api: BotApi, names: dict[int, list[str]]) -> None:
    """Each sender's final messages name every file of his with its outcome.

    A stranger gets at most one answer: none if the bot was killed between its record and its message.
    """
    for user, sent in names.items():
        finals = "\n".join(api.texts_to(user))
        assert [name for name in sent if f" {name}: " not in finals] == []
    assert len(api.texts_to(STRANGER)) <= 1
    assert "❌ broken.zip: quarantined: " in "\n".join(api.texts_to(ANNA))
    (again,) = {line for text in api.texts_to(BORIS) for line in text.splitlines() if "again" in line}
    assert again.removesuffix(" (received before)") == "✅ again.zip: stored, 2 messages"


def add_faults(api: BotApi) -> None:
    """Let the server fail as Telegram does under load."""
    api.fail("getupdates", 429, "Too Many Requests: retry after 1", retry_after=1)
    api.fail("getFile", 500, "Internal Server Error", times=2)
    api.fail("sendMessage", 429, "Too Many Requests: retry after 2", retry_after=2)
    api.drop("editMessageText")
    api.drop("getFile")
    api.cut(10, 0, 400)
    api.expire_links()


def check_rows(plant: Plant, exports: int) -> None:
    """Every message of every readable export is there once, each content was received once."""
    stored = plant.rows(
        "SELECT count(*) AS messages, count(DISTINCT chat_key) AS chats,"
        " count(DISTINCT text) AS texts FROM messages"
    )
    assert stored == [{"messages": 2 * exports, "chats": exports, "texts": 2 * exports}]
    assert plant.rows("SELECT count(*) AS n FROM source_files") == [{"n": exports + 1}]
    assert plant.rows("SELECT count(*) AS n FROM receipts") == [{"n": exports + 2}]
    assert plant.rows("SELECT status, count(*) AS n FROM batch_files GROUP BY status ORDER BY status") == [
        {"status": "QUARANTINED", "n": 1},
        {"status": "STORED", "n": exports},
    ]


def check_turns(plant: Plant) -> None:
    """Each run has cut its batches so that the uploaders took turns."""
    rows = plant.rows(
        "SELECT flow_run_id, r.position, source_id, (SELECT min(user_id) FROM uploads u"
        " WHERE u.source_id = f.source_id) AS uploader"
        " FROM run_batches r JOIN batch_files f USING (batch_id) ORDER BY r.position, f.position"
    )
    runs: dict[Any, dict[int, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        runs[row["flow_run_id"]][row["position"]].append((row["source_id"], row["uploader"]))
    for batches in runs.values():
        sources = sorted(source for batch in batches.values() for source in batch)
        assert [[source for source, _ in batch] for batch in batches.values()] == cut(sources, BATCH_SIZE)


async def check_operators(plant: Installation, received: int) -> None:
    """What operators and admins see of it."""
    shown = plant.tdp("bot", "status")
    assert "@exports_bot polls" in " ".join(shown.split())
    assert f"{received} RECEIVED, 1 REFUSED" in shown
    monitor = services.monitor_url(plant.settings)

    def complete() -> str:  # memory is sampled every 10 s, and the bot may have been dead just then
        text = httpx.get(f"{monitor}/metrics", timeout=30).text
        return text if 'tdp_memory_bytes{service="bot"}' in text else ""

    metrics = await plant.until(complete)
    async with httpx.AsyncClient(timeout=30) as client:
        health = (await client.get(f"{monitor}/health")).json()["conditions"]
    assert [health[name]["firing"] for name in ("bot_silent", "bot_conflict", "uploads_stuck")] == [False] * 3
    assert f'tdp_uploads{{state="received"}} {received}.0' in metrics
    assert 'tdp_bot_poll_age_seconds{bot="exports_bot"}' in metrics
    (batch,) = plant.rows("SELECT batch_id FROM batch_files WHERE status = 'QUARANTINED'")
    plant.api.message(ADMIN, text=f"/retry {batch['batch_id']}")
    await plant.until(lambda: any("was requested" in text for text in plant.api.texts_to(ADMIN)))
    tagged = {"tags": {"all_": ["telegram"]}}
    (run,) = plant.send("POST", "flow_runs/filter", flow_runs=tagged)
    asked = {"batch_ids": [batch["batch_id"]], "from_stage": "extract"}
    assert run["parameters"] | asked == run["parameters"]
    assert TOKEN not in json.dumps(plant.send("POST", "flow_runs/filter"))
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            assert TOKEN not in " ".join(process.cmdline())


def check_token(plant: Plant) -> None:
    """No file of the installation has the token: no log, no table, no environment of a flow run."""
    files = [plant.log, *(path for path in plant.settings.root.rglob("*") if path.is_file())]
    assert "bot.log" in {path.name for path in files}
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
