"""Export and search: speed over raw COPY, times of searches, the size of the index and its cost for store.

usage: python tests/bench/bench_tables.py [--quick] [ROWS]

The messages are those of bench_store (16 frequent words), each with three of 50,000 further words by Zipf's
law, so that searches meet rare and frequent words. Raw COPY is COPY of the whole table TO STDOUT as CSV,
received by psycopg2 and written to a file.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import bench_store
import frame
import psutil
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
from frame import Cost, Row, row
from pipeline import cpu

from flows import services
from flows.exports.columns import MESSAGES
from flows.ledger.connection import connection
from flows.ledger.schema_version import migrate
from flows.settings import Settings
from flows.stages.store import loading
from flows.tables.export import export
from flows.tables.orders import Choice, Format, Order, What
from flows.tables.search import search
from flows.tables.search_index import index
from flows.tables.sessions import prepare

_WORDS, _SEARCHES = 50_000, 60


def with_rare_words(folder: Path, number: int) -> Path:
    """Add words by Zipf's law to the messages of a batch of bench_store."""
    rng = random.Random(number)
    table = pq.read_table(folder / "messages.parquet")
    texts = [f"{text} {zipf(rng)} {zipf(rng)} {zipf(rng)}" for text in table["text"].to_pylist()]
    place = table.schema.get_field_index("text")
    table = table.set_column(place, MESSAGES.field("text"), pa.array(texts, pa.string()))
    pq.write_table(table, folder / "messages.parquet", compression="zstd")
    return folder


def zipf(rng: random.Random) -> str:
    return f"word{int(_WORDS ** rng.random())}"


def raw_copy(url: str, out: Path) -> None:
    with psycopg2.connect(url) as opened, opened.cursor() as cursor, out.open("wb") as file:
        cursor.copy_expert("COPY messages TO STDOUT (FORMAT csv, HEADER)", file)


def export_as(url: str, out: Path, format_: Format) -> None:
    with connection(url, readonly=True, autocommit=True) as ledger:
        prepare(ledger, None)
        export(ledger, Order(What.messages, Choice(), format_), out, force=True, report=lambda _: None)


def sizes(url: str) -> dict[str, int]:
    search = ("search_documents", "search_documents_pkey", "search_words", "search_substrings")
    names = ("messages", "messages_pkey", *search)
    with connection(url) as ledger, ledger.cursor() as cursor:
        cursor.execute("SELECT name, pg_relation_size(name::regclass) FROM unnest(%s) AS name", [list(names)])
        return {name: round(size / 1e6) for name, size in cursor.fetchall()}


def seconds_of_searches(
    url: str, given: Callable[[random.Random], str], *, substring: bool = False
) -> list[float]:
    rng = random.Random(3)
    with connection(url, readonly=True, autocommit=True) as ledger:
        prepare(ledger, None)
        words = [given(rng) for _ in range(_SEARCHES)]
        return [frame.timed(partial(search, ledger, word, Choice(), substring=substring)) for word in words]


def measure(quick: bool, rows: str = "") -> Iterator[Row]:
    total = int(rows) if rows else 100_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory(prefix="tdp-bench-") as name:
        root = Path(name)
        root.chmod(0o755)
        settings = Settings(home=root / "home")
        with services.postgres(settings) as server:
            assert server is not None
            migrate(settings.database)
            for number in range(bench_store.BATCHES):
                folder = bench_store.write_batch(
                    root / f"batch{number}", number, total // bench_store.BATCHES
                )
                with_rare_words(folder, number)
                loading.load(settings.database, folder, loading.read_chats(folder))
            yield from exports(
                settings.database, root, psutil.Process(server.process.pid), total, 2 if quick else 3
            )
            yield from searches(settings.database, total)
            yield from store_cost(settings.database, root, 3 if quick else 5)


def exports(url: str, root: Path, server: psutil.Process, rows: int, rounds: int) -> Iterator[Row]:
    def cost(work: Callable[[], object]) -> Cost:
        before = cpu(server) + sum(psutil.Process().cpu_times()[:2])
        seconds = frame.timed(work)
        return Cost(seconds, cpu(server) + sum(psutil.Process().cpu_times()[:2]) - before)

    work: dict[str, Callable[[], Cost]] = {
        "raw": lambda: cost(partial(raw_copy, url, root / "raw.csv")),
        **{
            format_.value: partial(cost, partial(export_as, url, root / f"out.{format_}", format_))
            for format_ in (Format.csv, Format.jsonl, Format.parquet, Format.duckdb, Format.sqlite)
        },
    }
    costs = frame.in_turns(rounds, work)
    for name, found in costs.items():
        yield row(f"export, {name}", rows / found.seconds, "rows/s", **found._asdict())
    ours, theirs = costs["csv"], costs["raw"]
    speed = theirs.seconds / ours.seconds
    yield row("export, CSV, speed over raw COPY", speed, "×", least=0.6, **frame.ratio(ours, theirs))


def searches(url: str, rows: int) -> Iterator[Row]:
    with connection(url) as ledger:
        built = frame.timed(lambda: index(ledger))
    with connection(url, autocommit=True) as ledger, ledger.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE search_documents")
    yield row("search, index built", rows / built, "rows/s", seconds=built, megabytes=sizes(url))
    for label, given, substring in (
        ("one word", zipf, False),
        ("two words", lambda rng: f"{zipf(rng)} {zipf(rng)}", False),
        ("a word of most messages", lambda rng: rng.choice(bench_store.WORDS), False),
        ("a part of a word", lambda rng: zipf(rng)[1:], True),
    ):
        found = sorted(seconds_of_searches(url, given, substring=substring))
        most = 100 if rows <= 1_000_000 and "most" not in label else None
        yield row(
            f"search, {label}, median", 1000 * median(found), "ms", most=most, worst_ms=1000 * found[-1]
        )


def store_cost(url: str, root: Path, rounds: int) -> Iterator[Row]:
    """Compare loads of new rows with loads that neither note their sources nor have the index of topics."""
    folder = bench_store.write_batch(root / "one", 98, 100_000)
    chats = loading.read_chats(folder)
    columns = "messages (chat_key, message_id) WHERE action = 'topic_created'"

    def cost(*, without: bool) -> Cost:
        with connection(url, autocommit=True) as ledger, ledger.cursor() as cursor:
            cursor.execute("TRUNCATE messages, chats, chat_clues, search_pending")
            cursor.execute("DROP INDEX IF EXISTS messages_topics")
            if not without:
                cursor.execute(f"CREATE INDEX messages_topics ON {columns}")
            cursor.execute("CHECKPOINT")
        marks = loading.sql.mark_unsearched
        if without:
            loading.sql.mark_unsearched = lambda *_, **__: None
        try:
            return Cost(frame.timed(lambda: loading.load(url, folder, chats)), 0.0)
        finally:
            loading.sql.mark_unsearched = marks

    work = {"with": partial(cost, without=False), "without": partial(cost, without=True)}
    costs = frame.in_turns(rounds, work)
    ratio = costs["with"].seconds / costs["without"].seconds
    yield row("store, time with search over without", ratio, "×", most=1.1, seconds=costs["with"].seconds)


if __name__ == "__main__":
    frame.run(measure)
