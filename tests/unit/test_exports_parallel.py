"""Blocks read side by side come to what they come to one by one, whatever becomes of a reader.

Whoever forks is a process of its own here: the tests' process has threads.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.exports import parallel
from flows.exports.parallel import Processors

forks = pytest.mark.skipif(sys.platform != "linux", reason="readers are forked on Linux alone")


def program(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``code``; what it forks and who it is counts it for itself."""
    begin = """
import os, signal, sys
from flows.exports import parallel
us, forks = os.getpid(), []
os.register_at_fork(after_in_parent=lambda: forks.append(1))
"""
    argv = [sys.executable, "-c", begin + code, *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=200, check=False)


def told(code: str, *arguments: object) -> Any:
    """Return what ``code`` printed."""
    done = program(code, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


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


def account(lengths: list[int]) -> dict[str, Any]:
    """An account with a chat of each of the ``lengths``, in messages."""
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
    """Two chats of some blocks each."""
    whole = json.dumps(account([7_000, 7_000]), indent=None if layout == "compact" else 1).encode()
    middle = whole.rindex(b'"id": 6600,')
    if layout == "cut off":
        return whole[:middle]
    if layout == "a comma is missing":
        comma = whole.rindex(b"},", 0, middle) + 1
        return whole[:comma] + whole[comma + 1 :]
    if layout == "no json from here on":
        return whole[:middle] + b"}}]" + whole[middle:]
    return whole


READ = """
import hashlib, json
from pathlib import Path
from flows.exports import json_export
from flows.exports.reading import Reading
readers, together = map(int, sys.argv[2:])
parallel.Processors.spare = lambda self: readers
json_export._TOGETHER = together
reading, quiet = Reading("000001-x.zip"), []
processors = parallel.Processors(lambda: quiet.append(1))
batches = json_export.read_json(Path(sys.argv[1]), reading, processors)
rows = [row for batch in batches for row in batch.to_pylist()]
of_rows = hashlib.sha256(repr(rows).encode()).hexdigest()
print(json.dumps([len(forks), len(quiet), [repr(reading), reading.messages, reading.without_id, of_rows]]))
"""


@forks
@pytest.mark.parametrize(
    "layout", ["as exported", "compact", "cut off", "a comma is missing", "no json from here on"]
)
def test_side_by_side_is_read_the_same(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(export(layout))
    forked, quiet, alone = told(READ, path, 0, 64)
    assert (forked, quiet) == (0, 0)
    _, messages, without_id, _ = alone
    assert messages > 13_000
    assert without_id
    for readers, together in [(1, 64), (2, 2)]:
        forked, quiet, read = told(READ, path, readers, together)
        assert read == alone
        assert forked >= 2 * readers
        assert forked == quiet * readers  # no thread was left at any fork


@forks
def test_short_chats_are_not_worth_a_fork(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(account([500] * 20), indent=1))
    forked, _, (_, messages, *_) = told(READ, path, 2, 64)
    assert (forked, messages) == (0, 20 * 500)


SIDE_BY_SIDE = """
import json
from flows.errors import BadInput
def side_by_side(items, work, readers=2):
    return parallel.side_by_side(readers, iter(items), work, lambda: None)
"""


@forks
def test_results_come_in_order() -> None:
    powers = told(
        SIDE_BY_SIDE
        + """
done = list(side_by_side(range(50), lambda number: (number ** 2, os.getpid())))
try:
    os.wait()
except ChildProcessError:
    print(json.dumps([[number for number, _ in done], len({pid for _, pid in done})]))
"""
    )
    assert powers == [[number**2 for number in range(50)], 3]


@forks
def test_errors_come_in_their_turn() -> None:
    came = told(
        SIDE_BY_SIDE
        + """
def up_to_a_bad_end():
    yield from "012"
    raise BadInput("cut off")
came = []
for items in ["0", "1", "two", "3"], up_to_a_bad_end():
    try:
        for result in side_by_side(items, int):
            came.append(result)
    except (ValueError, BadInput) as error:
        came.append(str(error))
print(json.dumps(came))
"""
    )
    assert came == [0, 1, "invalid literal for int() with base 10: 'two'", 0, 1, 2, "cut off"]


#: Ends a reader with half of a result in the pipe, which holds 1 MB.
IN_ITS_RESULT = """
class Deadly:
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)
def work(number):
    if number in (1, 9) and os.getpid() != us:
        return bytes(5_000_000), Deadly()
    return number, None
"""
#: Ends it between two.
AT_WORK = """
def work(number):
    if number in (1, 9) and os.getpid() != us:
        os.kill(os.getpid(), signal.SIGKILL)
    return number, None
"""
#: There is no room for one more process.
FULL = """
import errno
def no_fork():
    raise OSError(errno.EAGAIN, "no")
os.fork = no_fork
def work(number):
    return number, None
"""


@forks
@pytest.mark.parametrize("end", [IN_ITS_RESULT, AT_WORK, FULL])
@pytest.mark.parametrize("readers", [1, 2])
def test_what_a_killed_reader_had_is_read_here(end: str, readers: int) -> None:
    numbers = told(
        SIDE_BY_SIDE
        + end
        + """
print(json.dumps([number for number, _ in side_by_side(range(50), work, int(sys.argv[1]))]))
""",
        readers,
    )
    assert numbers == list(range(50))


@forks
def test_data_that_ends_a_reader_ends_the_stage_alike() -> None:
    code = "list(side_by_side(range(9), lambda number: os.abort() if number == 4 else number))"
    assert program(SIDE_BY_SIDE + code).returncode == -6  # SIGABRT


@forks
@pytest.mark.parametrize("end", ["os.kill(us, signal.SIGKILL)", "results.close()"])
def test_no_reader_outlives_its_reading(end: str) -> None:
    code = """
results = side_by_side(range(1_000_000), lambda number: (os.getpid(), bytes(1_000_000)))
print(json.dumps([next(results)[0], next(results)[0], next(results)[0]]), flush=True)
"""
    us, *readers = json.loads(program(SIDE_BY_SIDE + code + end).stdout)
    assert len({us, *readers}) == 3
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in readers if psutil.pid_exists(pid)], 10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@forks
@pytest.mark.parametrize(
    ("idle", "ours", "readers"), [(0.4, 0.0, 0), (1.0, 0.0, 1), (0.2, 0.9, 1), (1.7, 0.0, 2), (30.0, 0.0, 2)]
)
def test_readers_take_what_others_leave(
    monkeypatch: pytest.MonkeyPatch, idle: float, ours: float, readers: int
) -> None:
    monkeypatch.setattr(parallel, "_BEFORE", (100.0, 5.0))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(32)))
    processors = Processors(lambda: None)
    looks = iter([(102.0, 5.0 + 2 * (idle + ours)), (102.01, 5.0 + 2 * (idle + ours))])
    monkeypatch.setattr(parallel, "_spare", lambda: next(looks))
    assert processors.spare() == readers
    assert processors.spare() == readers  # too soon to tell anew


@forks
def test_a_process_held_to_one_processor_reads_alone() -> None:
    code = """
import json
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
parallel._BEFORE = parallel._BEFORE[0] - 1, parallel._BEFORE[1] - 9
print(json.dumps(parallel.Processors(list).spare()))
"""
    assert told(code) == 0


@forks
def test_time_of_our_readers_counts_as_spare() -> None:
    code = """
import json
before = os.times(), parallel._spare()
if not (pid := os.fork()):
    sum(range(20_000_000))
    os._exit(0)
os.waitpid(pid, 0)
after = os.times(), parallel._spare()
print(json.dumps([after[0].children_user - before[0].children_user, after[1][1] - before[1][1]]))
"""
    ours, spare = told(code)
    assert ours > 0.1
    assert spare > ours - 0.02  # a tick of the clock's, at either end
