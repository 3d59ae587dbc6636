"""Store: rows per second into the real schema, compared with raw COPY and with to_sql of pandas.

usage: python tests/bench/bench_store.py [--quick] [ROWS]

Five batches of ten chats each. Raw COPY loads the same rows, as prepared CSV, into a table without an index:
over one connection, and over five with a fifth of the rows each. The tables are truncated and a checkpoint is
performed between the rounds. One connection uses two cores, one for the loader and one for the backend, so
five connections are hardly faster on a machine with two cores. The raw figures contain the CPU time of the
server.
"""

from __future__ import annotations

import datetime as dt
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import frame
import psutil
import psycopg2
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from frame import Cost, Row, row
from pipeline import cpu

from flows import services
from flows.exports.columns import CHATS, MESSAGES
from flows.ledger.schema_version import migrate
from flows.settings import Settings
from flows.stages.store import copy_rows, loading

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
    """Write one batch of messages that resemble those of an active group."""
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
                    "sender_name": "A Sender With A Name",
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


def load(job: tuple[str, Path]) -> loading.Loaded:
    """Load one batch."""
    url, folder = job
    return loading.load(url, folder, loading.read_chats(folder))


def as_csv(folder: Path) -> bytes:
    """Return the rows as CSV for raw COPY, in the form that PostgreSQL parses fastest."""
    text = pa.BufferOutputStream()
    for rows in copy_rows.rows_of(folder / "messages.parquet", None):
        stored = copy_rows.as_stored(rows)
        for name in ("sent_at", "edited_at"):
            place = stored.schema.get_field_index(name)
            stored = stored.set_column(place, name, stored[name].cast(pa.timestamp("us")))
        pyarrow.csv.write_csv(stored, text, pyarrow.csv.WriteOptions(include_header=False))
    return text.getvalue().to_pybytes()


def raw_copy(job: tuple[str, Path]) -> None:
    """Copy the CSV file of one batch into the table without an index."""
    url, path = job
    with psycopg2.connect(url) as connection, connection.cursor() as cursor, path.open("rb") as file:
        cursor.copy_expert("COPY plain FROM STDIN (FORMAT csv)", file)


def to_sql(job: tuple[str, Path], keyed: bool = False) -> None:
    """Load one batch with to_sql of pandas, which cannot load existing rows again.

    ``keyed``: into a table with the primary key of ``messages`` instead of one without an index.
    """
    import pandas as pd
    from sqlalchemy import create_engine

    url, folder = job
    engine = create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(url))
    frame = pd.read_parquet(folder / "messages.parquet")
    if keyed:
        frame.iloc[:0].to_sql("of_pandas", engine, index=False)
        with psycopg2.connect(url) as connection, connection.cursor() as cursor:
            cursor.execute("ALTER TABLE of_pandas ADD PRIMARY KEY (chat_key, message_id)")
    frame.to_sql("of_pandas", engine, if_exists="append", index=False)
    engine.dispose()


class Bench:
    """The database and its loaders, measured by wall-clock time and by CPU time of all processes."""

    def __init__(self, url: str, server: psutil.Process, pool: ProcessPoolExecutor) -> None:
        self._url, self._server, self._pool = url, server, pool
        self._loaders = list(pool.map(_pid, range(BATCHES)))
        self.server_cpu: dict[str, float] = {}

    def empty(self) -> None:
        with psycopg2.connect(self._url) as connection, connection.cursor() as cursor:
            cursor.execute("TRUNCATE chats, messages, chat_clues, chat_exports, plain")
            cursor.execute("DROP TABLE IF EXISTS of_pandas")
            connection.commit()
            connection.autocommit = True
            cursor.execute("CHECKPOINT")

    def one(self, name: str, load: Callable[..., object], jobs: list[tuple[str, Path]]) -> Cost:
        """Return the cost of the jobs, run one after the other."""
        return self._cost(name, lambda: [self._pool.submit(load, job).result() for job in jobs])

    def five(self, name: str, load: Callable[..., object], jobs: list[tuple[str, Path]]) -> Cost:
        """Return the cost of the jobs, run concurrently."""
        return self._cost(name, lambda: list(self._pool.map(load, jobs)))

    def _cost(self, name: str, work: Callable[[], object]) -> Cost:
        server, loaders = cpu(self._server), self._cpu_of_loaders()
        seconds = frame.timed(work)
        self.server_cpu[name] = round(cpu(self._server) - server, 2)
        return Cost(seconds, cpu(self._server) - server + self._cpu_of_loaders() - loaders)

    def _cpu_of_loaders(self) -> float:
        return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in set(self._loaders))


def _pid(_: int) -> int:
    import os

    time.sleep(0.3)  # so that each process of the pool gets one call
    return os.getpid()


def measure(quick: bool, rows: str = "") -> Iterator[Row]:
    total = int(rows) if rows else 50_000 if quick else 500_000
    with tempfile.TemporaryDirectory(prefix="tdp-bench-") as name, ProcessPoolExecutor(BATCHES) as pool:
        root = Path(name)
        root.chmod(0o755)
        settings = Settings(home=root / "home")
        with services.postgres(settings) as server:
            assert server is not None
            url = settings.database
            migrate(url)
            with psycopg2.connect(url) as connection, connection.cursor() as cursor:
                cursor.execute(
                    "CREATE TABLE plain (LIKE messages); ALTER TABLE plain DROP COLUMN joined_from"
                )
            folders = [write_batch(root / f"batch{n}", n, total // BATCHES) for n in range(BATCHES)]
            load((url, write_batch(root / "warm", 99, 100)))
            bench = Bench(url, psutil.Process(server.process.pid), pool)
            yield from compare(bench, url, folders, total, 2 if quick else 3)


def of_pandas(bench: Bench, work: Callable[..., object], jobs: list[tuple[str, Path]]) -> Cost:
    """Return what all batches cost; a fifth of the rows suffices to measure the speed."""
    bench.empty()
    cost = bench.one("to_sql", work, jobs[:1])
    return Cost(BATCHES * cost.seconds, BATCHES * cost.cpu)


def compare(bench: Bench, url: str, folders: list[Path], rows: int, rounds: int) -> Iterator[Row]:
    jobs = [(url, folder) for folder in folders]
    texts = [(url, folder.with_suffix(".csv")) for folder in folders]
    for folder, (_, text) in zip(folders, texts, strict=True):
        text.write_bytes(as_csv(folder))

    def emptied(work: Callable[[], Cost]) -> Cost:
        bench.empty()
        return work()

    costs = frame.in_turns(
        rounds,
        {
            "copy": lambda: emptied(partial(bench.one, "copy", raw_copy, texts)),
            "copy5": lambda: emptied(partial(bench.five, "copy5", raw_copy, texts)),
            "fresh": lambda: emptied(partial(bench.one, "fresh", load, jobs)),
            "same": lambda: bench.one("same", load, jobs),  # directly after the new rows
            "fresh5": lambda: emptied(partial(bench.five, "fresh5", load, jobs)),
            "same5": lambda: bench.five("same5", load, jobs),
        },
    )
    pandas, keyed = (of_pandas(bench, work, jobs) for work in (to_sql, partial(to_sql, keyed=True)))
    for name, cost in costs.items():
        raw = {**cost._asdict(), "server_cpu": bench.server_cpu[name]}
        yield row(LABELS[name], rows / cost.seconds, "rows/s", **raw)

    def times(label: str, ours: str, theirs: Cost, least: float | None = None) -> Row:
        cost = costs[ours]
        return row(label, theirs.seconds / cost.seconds, "×", least=least, **frame.ratio(cost, theirs))

    yield times("new rows, speed over raw COPY", "fresh", costs["copy"], 0.6)
    yield times("new rows, speed over to_sql without index", "fresh", pandas, 20)
    yield times("new rows, speed over to_sql with primary key", "fresh", keyed)
    yield times("new rows, five connections over one", "fresh5", costs["fresh"], 2)
    yield times("raw COPY, five connections over one", "copy5", costs["copy"])
    yield times("existing rows, speed over raw COPY", "same", costs["copy"])


LABELS = {
    "copy": "raw COPY of prepared CSV",
    "copy5": "raw COPY, five connections",
    "fresh": "new rows",
    "same": "existing rows",
    "fresh5": "new rows, five connections",
    "same5": "existing rows, five connections",
}

if __name__ == "__main__":
    frame.run(measure)
