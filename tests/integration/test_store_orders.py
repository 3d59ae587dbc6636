"""Random exports stored in any order and concurrently: the tables are the same, and no message is lost."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from chat_tables import clear, tables
from converted import START, Export, rows, store, visible, write

MINUTE = dt.timedelta(minutes=1)


def any_export(rng: random.Random, source: int) -> Export:
    """Return an export of one of nine chats that may be the same, with messages that often agree."""
    names = {"html-0001~a": "Anna", "html-0001~b": "Anna", "html-0001~c": "Anna", "html-0002~a": "Bob"}
    key = rng.choice([*names, "user5~a", "user5~b", "user5@user8", "user5@user9", "channel7"])
    name = names.get(key) or rng.choice(["Anna", "Anna", "Bob", None])
    odd = rng.random() < 0.4
    messages = [
        (n, n + (10 if odd and rng.random() < 0.3 else 0), rng.choice(["hello", "hello", "there"]))
        for n in sorted(rng.sample(range(1, 9), rng.randint(0, 5)))
    ]
    whole = rng.choice([True, True, True, False])
    return Export(source, key, name, messages, utc=rng.random() < 0.8, whole=whole)


def any_range(rng: random.Random, source: int) -> Export:
    """Return some days of one of three people's chats with the same name, peer and message ids."""
    person = rng.randint(1, 3)
    first = rng.randint(1, 20)
    days = range(first, first + rng.randint(2, 6))
    form = rng.choice(["html-0001", "html-0001", "html-0001", "user5"])
    key = "user5@user9" if rng.random() < 0.05 and person == 1 else f"{form}~{person}{first:02d}"
    messages = [(n, 3 * n + person, "hello") for n in days if rng.random() < 0.9]
    return Export(source, key, "Anna", messages, whole=rng.random() < 0.8)


def own_rows(exports: Sequence[Export]) -> dict[tuple[str, int], Any]:
    """Return the time of sending of every message, from the greatest revision in its chat's own exports."""
    last: dict[tuple[str, int], dict[str, Any]] = {}
    for row in itertools.chain.from_iterable(map(rows, exports)):
        before = last.setdefault((row["chat_key"], row["message_id"]), row)
        last[row["chat_key"], row["message_id"]] = max(before, row, key=lambda row: str(row["revision"]))
    return {message: row["sent_local"] for message, row in last.items()}


def assert_nothing_lost(url: str, exports: Sequence[Export]) -> None:
    """Check that every message of every export is stored in its chat or in the chat that this has joined."""
    with psycopg.connect(url) as connection:
        best: dict[str, str] = dict(connection.execute("SELECT alias, chat_key FROM chat_aliases").fetchall())
        found = connection.execute("SELECT chat_key, message_id, sent_local FROM messages").fetchall()
    stored = {(key, number): sent for key, number, sent in found}
    for (key, number), sent in own_rows(exports).items():
        assert stored[best.get(key, key), number] == sent


def assert_versions(url: str, exports: Sequence[Export]) -> None:
    """Check that every other text of a message in a chat's own exports is kept, in its last revision."""
    found = sorted(itertools.chain.from_iterable(map(rows, exports)), key=lambda row: str(row["revision"]))
    current = {(row["chat_key"], row["message_id"]): row["text"] for row in found}
    versions = {(row["chat_key"], row["message_id"], row["text"]): row["revision"] for row in found}
    expected = {key: revision for key, revision in versions.items() if current[key[:2]] != key[2]}
    with psycopg.connect(url) as connection:
        statement = "SELECT chat_key, message_id, text, revision FROM message_versions"
        kept = connection.execute(statement).fetchall()
    assert {(key, number, text): revision for key, number, text, revision in kept} == expected


def assert_missing(url: str, exports: Sequence[Export]) -> None:
    """Check which messages are marked, from all exports of each chat in the order in which they were made."""
    with psycopg.connect(url) as connection:
        best: dict[str, str] = dict(connection.execute("SELECT alias, chat_key FROM chat_aliases").fetchall())
        sent: dict[Any, dt.datetime | None] = {
            (key, number): at
            for key, number, at in connection.execute("SELECT chat_key, message_id, sent_at FROM messages")
        }
        marks = set(connection.execute("SELECT chat_key, message_id, missing_since FROM missing_messages"))
    made = sorted(exports, key=lambda one: (max((at for _, at, _ in one.messages), default=0), one.source))
    expected = set()
    for (key, number), at in sent.items():
        own = [one for one in made if best.get(one.key, one.key) == key]
        known = {n for one in own for n, *_ in one.messages}
        last = max(place for place, one in enumerate(own) if number in {n for n, *_ in one.messages})
        for one in own[last + 1 :]:
            ids, times = ([message[part] for message in one.messages] for part in (0, 1))
            if not (one.whole and at and one.utc and ids and min(ids) < number < max(ids)):
                continue
            inside = sum(min(ids) < n < max(ids) for n in known)
            between = START + min(times) * MINUTE < at < START + max(times) * MINUTE
            if between and 2 * len(ids) >= inside:
                expected.add((key, number, one.source))
                break
    assert marks == expected


def assert_same_tables(url: str, folder: Path, rng: random.Random, any_export: Any) -> list[Export]:
    """Store eight batches of random exports in several orders, then concurrently; return the exports."""
    batches, exports = list[Path](), list[Export]()
    for n in range(8):
        some = [any_export(rng, len(exports) + m + 1) for m in range(rng.randint(1, 3))]
        batches.append(write(folder / str(n), *some))
        exports += some
    for batch in batches:
        store(url, batch)
    expected = tables(url)
    for _ in range(2):
        clear(url)
        rng.shuffle(batches)
        for batch in [*batches, *rng.sample(batches, 3)]:
            store(url, batch)
        assert tables(url) == expected
    clear(url)
    with ThreadPoolExecutor(5) as pool:
        grown = sum(pool.map(lambda batch: store(url, batch), batches * 2))
    assert tables(url) == expected
    assert grown == len(expected["messages"])
    return exports


SEEDS = range(int(os.environ.get("STORE_SEEDS", "4")))


@pytest.mark.parametrize("seed", SEEDS)
def test_any_order_and_concurrency_have_the_same_result(database_url: str, tmp_path: Path, seed: int) -> None:
    exports = assert_same_tables(database_url, tmp_path, random.Random(seed), any_export)
    assert_nothing_lost(database_url, exports)
    assert_versions(database_url, exports)
    assert_missing(database_url, exports)


@pytest.mark.parametrize("seed", SEEDS)
def test_overlapping_ranges_of_chats_of_one_name_become_their_chats(
    database_url: str, tmp_path: Path, seed: int
) -> None:
    exports = assert_same_tables(database_url, tmp_path, random.Random(seed), any_range)
    assert_nothing_lost(database_url, exports)
    assert_missing(database_url, exports)
    spans: list[set[tuple[int, int, str]]] = []
    for export in exports:
        span = set(export.messages).union(*(other for other in spans if other & set(export.messages)))
        spans = [other for other in spans if not other & span] + [span]
    assert sorted(visible(database_url).values()) == sorted(sorted(n for n, *_ in span) for span in spans)
