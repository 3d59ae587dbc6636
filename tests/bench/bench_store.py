"""Rows per second of the store stage against raw COPY: python tests/bench/bench_store.py [ROWS]

Five batches of ten chats each; raw COPY is the same rows, already CSV, into a table without any index.
"""

from __future__ import annotations

import datetime as dt
import io
import random
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from flows import services
from flows.exports.schema import CHATS, MESSAGES
from flows.ledger import migrate
from flows.settings import Settings
from flows.stages import loading

BATCHES, CHATS_PER_BATCH = 5, 10
START = dt.datetime(2022, 1, 1, tzinfo=dt.UTC)
WORDS = [
    "the",
    "a",
    "of",
    "to",
    "and",
    "in",
    "is",
    "it",
    "that",
    "for",
    "was",
    "on",
    "are",
    "as",
    "with",
    "they",
]


def write_batch(folder: Path, number: int, rows: int) -> Path:
    """Write one batch of messages as varied as a lively group's."""
    folder.mkdir()
    rng = random.Random(number)
    chats, messages = [], []
    for n in range(CHATS_PER_BATCH):
        key, source = f"channel{number:02d}{n:02d}", f"{number * 100 + n + 1:06d}-chat.zip"
        count = rows // CHATS_PER_BATCH
        chats.append(
            {"chat_key": key, "name": f"Chat {key}", "form": "json", "source": source, "messages": count}
        )
        for message in range(count):
            sent = START + dt.timedelta(seconds=message * 61)
            text = " ".join(rng.choices(WORDS, k=rng.randint(1, 40)))
            messages.append(
                {
                    "chat_key": key,
                    "message_id": message,
                    "type": "message",
                    "sent_at": sent,
                    "sent_local": sent.replace(tzinfo=None),
                    "sender_id": f"user{rng.randint(1, 500)}",
                    "sender_name": "Somebody With A Name",
                    "text": text,
                    "entities": '[{"type": "bold", "text": "word"}]' if rng.random() < 0.3 else None,
                    "media": '{"photo": null, "width": 1280, "height": 960}' if rng.random() < 0.2 else None,
                    "reactions": '[{"type": "emoji", "count": 3}]' if rng.random() < 0.2 else None,
                    "reply_to_message_id": message - 1 if rng.random() < 0.3 else None,
                    "revision": f"{int(sent.timestamp()):012d}-1-{rng.getrandbits(64):016x}",
                    "source": source,
                }
            )
    pq.write_table(pa.Table.from_pylist(chats, CHATS), folder / "chats.parquet")
    pq.write_table(pa.Table.from_pylist(messages, MESSAGES), folder / "messages.parquet", compression="zstd")
    return folder


def load(job: tuple[str, Path]) -> dict[str, int]:
    """Load one batch."""
    url, folder = job
    return loading.load(url, folder, loading.read_chats(folder))


def as_csv(folder: Path) -> bytes:
    """Return the rows as raw COPY gets them."""
    return b"".join(map(loading._csv, loading._rows(folder / "messages.parquet", None)))


def raw_copy(url: str, text: bytes) -> None:
    """COPY into a table without indexes."""
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS raw; CREATE TABLE raw (LIKE messages)")
        connection.commit()
        cursor.copy_expert(
            loading.sql.copy_fresh.sql.replace("messages", "raw", 1), io.BytesIO(text), 1 << 20
        )


def timed(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main(rows: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(5) as pool:
        root = Path(name)
        root.chmod(0o755)
        settings = Settings(home=root / "home")
        with services.postgres(settings):
            url = settings.database
            migrate(url)
            jobs = [
                (url, write_batch(root / f"batch{number}", number, rows // BATCHES))
                for number in range(BATCHES)
            ]
            text = b"".join(as_csv(folder) for _, folder in jobs)
            list(pool.map(time.sleep, [0.1] * 5))  # the processes are up
            list(map(load, [(url, write_batch(root / "warm", 99, 100))]))

            def clear() -> None:
                with psycopg2.connect(url) as connection, connection.cursor() as cursor:
                    cursor.execute("TRUNCATE chats, messages, chat_clues")
                    connection.commit()
                    connection.autocommit = True
                    cursor.execute("CHECKPOINT")

            table = Table("rows/s", "best", "of raw COPY")
            base = min(timed(lambda: raw_copy(url, text)) for _ in range(3))
            table.add_row("raw COPY of ready CSV", f"{rows / base:,.0f}", "")
            for label, work in {
                "one connection": lambda: list(map(load, jobs)),
                "five connections": lambda: list(pool.map(load, jobs)),
            }.items():
                fresh, same = [], []
                for _ in range(3):
                    clear()
                    fresh.append(timed(work))
                    same.append(timed(work))
                for what, times in {"fresh": fresh, "all there": same}.items():
                    table.add_row(f"{label}, {what}", f"{rows / min(times):,.0f}", f"{base / min(times):.0%}")
            Console().print(table, f"{len(text) / rows:.0f} bytes of CSV per row")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300_000)
