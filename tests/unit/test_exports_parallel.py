"""Blocks read in parallel have the same result as blocks read one by one, even if readers are killed.

The tests fork in a separate process, because the test process has threads.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
from html_pages import div, media, page, service, text
from html_pages import message as html_message

from flows.exports import parallel
from flows.exports.parallel import Processors

forks = pytest.mark.skipif(sys.platform != "linux", reason="readers are forked on Linux alone")


def program(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process that knows its pid (``us``) and counts its forks."""
    begin = """
import os, signal, sys
from flows.exports import parallel
us, forks = os.getpid(), []
os.register_at_fork(after_in_parent=lambda: forks.append(1))
"""
    argv = [sys.executable, "-c", begin + code, *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=200, check=False)


def output_of(code: str, *arguments: object) -> Any:
    """Return the JSON that ``code`` printed."""
    done = program(code, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def message(number: int) -> dict[str, Any]:
    """Return a message of 1 kB; some have no id or an invalid time."""
    return {
        "id": None if number % 1000 == 999 else number,
        "type": "message",
        "date": "2023-01-02T03:04:05",
        "date_unixtime": "soon" if number % 700 == 5 else "1672628645",
        "from": "A",
        "from_id": f"user{number % 7}",
        "text": ["x" * 1000, {"type": "bold", "text": str(number)}],
    }


def account(lengths: list[int]) -> dict[str, Any]:
    """Return an account with one chat per element of ``lengths``, its number of messages."""
    chats = [
        {
            "name": f"Chat {chat}",
            "type": "private_group",
            "id": chat,
            "messages": [message(number) for number in range(length)],
        }
        for chat, length in enumerate(lengths, 1)
    ]
    return {"chats": {"list": chats}}


def export(layout: str) -> bytes:
    """Return two chats of several blocks each, in this layout or with this defect."""
    whole = json.dumps(account([7_000, 7_000]), indent=None if layout == "compact" else 1).encode()
    middle = whole.rindex(b'"id": 6600,')
    if layout == "cut off":
        return whole[:middle]
    if layout == "a comma is missing":
        comma = whole.rindex(b"},", 0, middle) + 1
        return whole[:comma] + whole[comma + 1 :]
    if layout == "invalid json":
        return whole[:middle] + b"}}]" + whole[middle:]
    return whole


READ = """
import hashlib, json
from pathlib import Path
from flows.exports import json_export
from flows.exports.reading import Reading
readers, blocks = map(int, sys.argv[2:])
parallel.Processors.idle = lambda self: readers
json_export._BLOCKS_PER_FORK = blocks
reading, stops = Reading("000001-x.zip"), []
processors = parallel.Processors(lambda: stops.append(1))
batches = json_export.read_json(Path(sys.argv[1]), reading, processors)
rows = [row for batch in batches for row in batch.to_pylist()]
of_rows = hashlib.sha256(repr(rows).encode()).hexdigest()
print(json.dumps([len(forks), len(stops), [repr(reading), reading.messages, reading.without_id, of_rows]]))
"""


@forks
@pytest.mark.parametrize(
    "layout", ["as exported", "compact", "cut off", "a comma is missing", "invalid json"]
)
def test_parallel_reading_has_the_same_result(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(export(layout))
    forked, stops, alone = output_of(READ, path, 0, 64)
    assert (forked, stops) == (0, 0)
    _, messages, without_id, _ = alone
    assert messages > 13_000
    assert without_id
    for readers, blocks in [(1, 64), (2, 2)]:
        forked, stops, read = output_of(READ, path, readers, blocks)
        assert read == alone
        assert forked >= 2 * readers
        assert forked == stops * readers  # threads were stopped before every fork


def parts(seed: int) -> Iterator[str]:
    """Yield the pages of a chat; the sender or origin of their first messages can be in the page before."""
    rng, number = Random(seed), 0
    for at in range(9):
        messages = [service(-1 - at, "28 July 2025")]
        for _ in range(rng.choice([0, 1, 5, 40])):
            number += 1
            origin = rng.choice(["", div("from_name", f"F{number} ")])
            forwarded = div("forwarded body", origin + text(f"f{number}"))
            content = rng.choice([text(f"t{number}"), forwarded, media("media_call", "Bo", "", "Missed")])
            joined = number > 1 and rng.random() < 0.6
            messages.append(html_message(number, content, sender=None if joined else f"S{rng.randrange(3)}"))
            if rng.random() < 0.1:
                messages.append(service(1_000 + number, "A joined Telegram"))
        yield page(*messages)[: rng.choice([-9, None, None, None])]


READ_PARTS = """
import hashlib, json
from pathlib import Path
from flows.exports import html_export
from flows.exports.discover import Export
from flows.exports.reading import Reading
readers = int(sys.argv[1])
parallel.Processors.idle = lambda self: readers
html_export._PARTS_WORTH_FORK, html_export._PARTS_PER_FORK = 2, 3
reading, stops = Reading("000001-x.zip"), []
processors = parallel.Processors(lambda: stops.append(1))
export = Export("html", tuple(map(Path, sys.argv[2:])))
batches = html_export.read_html(export, reading, None, processors)
rows = [row for batch in batches for row in batch.to_pylist()]
print(json.dumps([len(forks), len(stops), [repr(reading), hashlib.sha256(repr(rows).encode()).hexdigest()]]))
"""


@forks
@pytest.mark.parametrize("seed", range(6))
def test_parts_of_html_read_in_parallel_have_the_same_result(tmp_path: Path, seed: int) -> None:
    paths = [tmp_path / f"messages{number or ''}.html" for number in (0, *range(2, 10))]
    for path, html in zip(paths, parts(seed), strict=True):
        path.write_text(html)
    forked, stops, alone = output_of(READ_PARTS, 0, *paths)
    assert (forked, stops) == (0, 0)
    for readers in (1, 2):
        forked, stops, read = output_of(READ_PARTS, readers, *paths)
        assert read == alone
        assert forked == stops * readers > 0


@forks
def test_short_chats_are_not_worth_a_fork(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(account([500] * 20), indent=1))
    forked, _, (_, messages, *_) = output_of(READ, path, 2, 64)
    assert (forked, messages) == (0, 20 * 500)


PARALLEL_MAP = """
import json
from flows.errors import BadInput
def parallel_map(items, work, readers=2):
    return parallel.parallel_map(readers, iter(items), work, lambda: None)
"""


@forks
def test_results_are_in_order() -> None:
    powers = output_of(
        PARALLEL_MAP
        + """
done = list(parallel_map(range(50), lambda number: (number ** 2, os.getpid())))
try:
    os.wait()
except ChildProcessError:
    print(json.dumps([[number for number, _ in done], len({pid for _, pid in done})]))
"""
    )
    assert powers == [[number**2 for number in range(50)], 3]


@forks
def test_errors_are_raised_after_the_results_before_them() -> None:
    results = output_of(
        PARALLEL_MAP
        + """
def up_to_a_bad_end():
    yield from "012"
    raise BadInput("cut off")
results = []
for items in ["0", "1", "two", "3"], up_to_a_bad_end():
    try:
        for result in parallel_map(items, int):
            results.append(result)
    except (ValueError, BadInput) as error:
        results.append(str(error))
print(json.dumps(results))
"""
    )
    assert results == [0, 1, "invalid literal for int() with base 10: 'two'", 0, 1, 2, "cut off"]


#: Kills a reader while half of a result is in the pipe, which holds 1 MB.
KILLED_WHILE_WRITING = """
class Deadly:
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)
def work(number):
    if number in (1, 9) and os.getpid() != us:
        return bytes(5_000_000), Deadly()
    return number, None
"""
#: Kills a reader between two results.
KILLED_AT_WORK = """
def work(number):
    if number in (1, 9) and os.getpid() != us:
        os.kill(os.getpid(), signal.SIGKILL)
    return number, None
"""
#: No further process can be forked.
NO_FORK = """
import errno
def no_fork():
    raise OSError(errno.EAGAIN, "no")
os.fork = no_fork
def work(number):
    return number, None
"""


@forks
@pytest.mark.parametrize("end", [KILLED_WHILE_WRITING, KILLED_AT_WORK, NO_FORK])
@pytest.mark.parametrize("readers", [1, 2])
def test_the_share_of_a_killed_reader_is_read_by_the_parent(end: str, readers: int) -> None:
    numbers = output_of(
        PARALLEL_MAP
        + end
        + """
print(json.dumps([number for number, _ in parallel_map(range(50), work, int(sys.argv[1]))]))
""",
        readers,
    )
    assert numbers == list(range(50))


@forks
def test_an_item_that_crashes_a_reader_crashes_the_parent() -> None:
    code = "list(parallel_map(range(9), lambda number: os.abort() if number == 4 else number))"
    assert program(PARALLEL_MAP + code).returncode == -6  # SIGABRT


@forks
@pytest.mark.parametrize("end", ["os.kill(us, signal.SIGKILL)", "results.close()"])
def test_no_reader_outlives_its_parent_or_its_results(end: str) -> None:
    code = """
results = parallel_map(range(1_000_000), lambda number: (os.getpid(), bytes(1_000_000)))
print(json.dumps([next(results)[0], next(results)[0], next(results)[0]]), flush=True)
"""
    us, *readers = json.loads(program(PARALLEL_MAP + code + end).stdout)
    assert len({us, *readers}) == 3
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in readers if psutil.pid_exists(pid)], 10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@forks
@pytest.mark.parametrize(
    ("idle", "ours", "readers"), [(0.4, 0.0, 0), (1.0, 0.0, 1), (0.2, 0.9, 1), (1.7, 0.0, 2), (30.0, 0.0, 2)]
)
def test_readers_use_only_idle_processors(
    monkeypatch: pytest.MonkeyPatch, idle: float, ours: float, readers: int
) -> None:
    monkeypatch.setattr(parallel, "_AT_START", (100.0, 5.0))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(32)))
    processors = Processors(lambda: None)
    samples = iter([(102.0, 5.0 + 2 * (idle + ours)), (102.01, 5.0 + 2 * (idle + ours))])
    monkeypatch.setattr(parallel, "_idle_time", lambda: next(samples))
    assert processors.idle() == readers
    assert processors.idle() == readers  # too soon for a new sample


@forks
def test_a_process_bound_to_one_processor_has_no_readers() -> None:
    code = """
import json
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
parallel._AT_START = parallel._AT_START[0] - 1, parallel._AT_START[1] - 9
print(json.dumps(parallel.Processors(list).idle()))
"""
    assert output_of(code) == 0


@forks
def test_the_time_of_own_readers_counts_as_idle() -> None:
    code = """
import json
before = os.times(), parallel._idle_time()
if not (pid := os.fork()):
    sum(range(20_000_000))
    os._exit(0)
os.waitpid(pid, 0)
after = os.times(), parallel._idle_time()
print(json.dumps([after[0].children_user - before[0].children_user, after[1][1] - before[1][1]]))
"""
    ours, idle = output_of(code)
    assert ours > 0.1
    assert idle > ours - 0.02  # one clock tick at each end
