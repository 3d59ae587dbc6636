"""Blocks read side by side come to what they come to one by one, whatever becomes of a reader."""

import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flows.errors import BadInput, StageCrashed
from flows.exports import parallel
from flows.exports.json_export import read_json
from flows.exports.parallel import in_order, readers
from flows.exports.reading import Reading
from flows.stages.process import run_command


@pytest.fixture
def pool() -> Iterator[Executor]:
    # Not forked: the tests' own process has threads.
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        yield pool
        assert pool.submit(int).result() == 0  # no reader has died, and left all to us


def message(number: int) -> dict[str, Any]:
    """A message of 1 kB; now and then one of the many odd kinds."""
    return {
        "id": None if number % 1000 == 999 else number,
        "type": "message",
        "date": "2023-01-02T03:04:05",
        "date_unixtime": "soon" if number % 700 == 5 else "1672628645",
        "from": "A",
        "from_id": f"user{number % 7}",
        "text": ["x" * 1000, {"type": "bold", "text": str(number)}],
    }


def export(layout: str) -> bytes:
    """Two chats of some blocks each."""
    chats = [
        {
            "name": f"Chat {chat}",
            "type": "private_group",
            "id": chat,
            "messages": [message(number) for number in range(2_500)],
        }
        for chat in (1, 2)
    ]
    whole = json.dumps({"chats": {"list": chats}}, indent=None if layout == "compact" else 1).encode()
    middle = whole.rindex(b'"id": 2000,')
    if layout == "cut off":
        return whole[:middle]
    if layout == "a comma is missing":
        comma = whole.rindex(b"},", 0, middle) + 1
        return whole[:comma] + whole[comma + 1 :]
    if layout == "no json from here on":
        return whole[:middle] + b"}}]" + whole[middle:]
    return whole


@pytest.mark.parametrize(
    "layout", ["as exported", "compact", "cut off", "a comma is missing", "no json from here on"]
)
def test_a_pool_reads_the_same(pool: Executor, tmp_path: Path, layout: str) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(export(layout))
    alone, together = Reading("000001-x.zip"), Reading("000001-x.zip")
    expected = [row for batch in read_json(path, alone) for row in batch.to_pylist()]
    assert [row for batch in read_json(path, together, pool) for row in batch.to_pylist()] == expected
    assert together == alone
    assert len(expected) == alone.messages > 2 * 2_000
    assert alone.without_id


def up_to_a_bad_end(last: int) -> Iterator[int]:
    yield from range(last)
    raise BadInput("cut off")


def test_results_come_in_order(pool: Executor) -> None:
    assert list(in_order(pool, partial(pow, 2), range(50))) == [2**number for number in range(50)]


def test_errors_come_in_their_turn(pool: Executor) -> None:
    results = in_order(pool, int, ["0", "1", "two", "3"])
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    powers = in_order(pool, partial(pow, 2), up_to_a_bad_end(3))
    assert [next(powers), next(powers), next(powers)] == [1, 2, 4]
    with pytest.raises(BadInput, match="cut off"):
        next(powers)


def idle_for(monkeypatch: pytest.MonkeyPatch, processors: float) -> None:
    looks = iter([(100.0, 0.0), (100.1, 0.1 * processors)])
    monkeypatch.setattr(parallel, "_BEFORE", next(looks))
    monkeypatch.setattr(parallel, "_idle", lambda: next(looks))


@pytest.mark.parametrize(("size", "idle"), [(parallel.WORTH - 1, 2.0), (parallel.WORTH, 0.4)])
def test_there_are_no_readers_for_little_or_beside_busy_lanes(
    monkeypatch: pytest.MonkeyPatch, size: int, idle: float
) -> None:
    idle_for(monkeypatch, idle)
    with readers(size) as pool:
        assert pool is None


#: In a process of its own: ``readers`` forks. Prints who did what, and at last whether the pool is whole.
FORKING = """
import os, signal
from concurrent.futures import BrokenExecutor
from flows.exports import parallel
parallel._BEFORE = (parallel._idle()[0] - 0.1, parallel._idle()[1] - 0.2)
parallel._idle = lambda now=parallel._idle(): now
us = os.getpid()
def work(number):
    if number == 1 and {end}:
        os.kill(os.getpid(), signal.SIGABRT)
    sum(range(200_000))  # so long that a reader gets something to do
    return number, os.getpid()
items = [1, *range(200)]
with parallel.readers(parallel.WORTH) as pool:
    done = list(parallel.in_order(pool, work, items))
    assert [number for number, _ in done] == items
    try:
        pool.submit(int).result()
        print("whole", len({{pid for _, pid in done}} - {{us}}))
    except BrokenExecutor:
        print("broken")
"""
forks = pytest.mark.skipif(sys.platform != "linux", reason="readers are forked on Linux alone")


async def forking(end: str) -> str:
    """Return what it says; run as stages are, for whoever aborts leaves readers behind."""
    argv = [sys.executable, "-c", FORKING.format(end=end)]
    return (await run_command(argv, env=os.environ, timeout=60)).stdout.strip()


@forks
async def test_readers_are_processes_beside_this_one() -> None:
    assert await forking("False") in ("whole 1", "whole 2")  # the faster they are done, the fewer of them


@forks
async def test_what_a_killed_reader_had_is_read_here() -> None:
    assert await forking("os.getpid() != us") == "broken"


@forks
async def test_data_that_ends_a_reader_ends_the_stage_alike() -> None:
    with pytest.raises(StageCrashed, match="SIGABRT"):
        await forking("True")
