"""Convert reads in several processes: the same bytes as in one, and a reader that crashes costs one file."""

import json
import operator
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from html_pages import div, media, page, service, text
from html_pages import message as html_message

from flows.errors import BadInput
from flows.exports import scan
from flows.exports.html_batch import HtmlBatch
from flows.stages.convert import entries, readers, stage
from flows.stages.convert.readers import ReaderCrashed, Readers, idle_processors, processors

#: What a reader does is picklable by its name; ``operator.call`` calls the item.
CALL = operator.call


def message(number: int) -> dict[str, Any]:
    """Return a message of 300 bytes; some have no id or an invalid time."""
    return {
        "id": None if number % 1000 == 999 else number,
        "type": "message",
        "date": "2023-01-02T03:04:05",
        "date_unixtime": "soon" if number % 700 == 5 else "1672628645",
        "from": "A",
        "from_id": f"user{number % 7}",
        "text": ["x" * 200, {"type": "bold", "text": str(number)}],
    }


def account(*lengths: int) -> dict[str, Any]:
    """Return an account with one chat per element of ``lengths``, its number of messages."""
    chats = [
        {"name": f"Chat {n}", "type": "private_group", "id": n, "messages": [*map(message, range(length))]}
        for n, length in enumerate(lengths, 1)
    ]
    return {"chats": {"list": chats}}


def export(layout: str) -> bytes:
    """Return two long chats and two short ones, in this layout or with this defect."""
    content = account(2_000, 3, 2_000, 0)
    whole = json.dumps(content, indent=None if layout == "compact" else 1).encode()
    middle = whole.rindex(b'"id": 1600,')
    if layout == "cut off":
        return whole[:middle]
    if layout == "a comma is missing":
        comma = whole.rindex(b"},", 0, middle) + 1
        return whole[:comma] + whole[comma + 1 :]
    if layout == "invalid":
        return whole[:middle] + b"}}]" + whole[middle:]
    if layout == "joined":  # one that is cut off, and another
        return whole[:middle] + json.dumps(account(5), indent=1).encode()
    return whole


def pages(seed: int) -> Iterator[str]:
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


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """Return extract's output with source files of all forms and with all defects."""
    source, number = tmp_path / "in", 0
    for layout in ("as exported", "compact", "cut off", "a comma is missing", "invalid", "joined"):
        number += 1
        (folder := source / f"{number:06d}-{layout}.zip").mkdir(parents=True)
        (folder / "result.json").write_bytes(export(layout))
    for seed in range(6):
        number += 1
        (folder := source / f"{number:06d}-{seed}.zip").mkdir()
        for part, html in enumerate(pages(seed), 1):
            (folder / f"messages{part if part > 1 else ''}.html").write_text(html)
    for chat in range(1, 4):
        (folder := source / "000097-account.zip" / "chats" / f"chat_{chat:03d}").mkdir(parents=True)
        for part, html in enumerate(pages(10 + chat), 1):
            (folder / f"messages{part if part > 1 else ''}.html").write_text(html)
    (source / "000098-nothing.zip").mkdir()
    (source / "000099-both.zip").mkdir()
    (source / "000099-both.zip" / "result.json").write_bytes(export("as exported"))
    (source / "000099-both.zip" / "messages.html").write_text(next(pages(7)))
    return source


@pytest.mark.parametrize("pieces", ["files", "exports", "blocks and parts"])
def test_the_rows_do_not_depend_on_the_number_of_readers(
    batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: str
) -> None:
    if pieces == "exports":
        monkeypatch.setattr(HtmlBatch, "is_linked", lambda *_: True)
    if pieces == "blocks and parts":
        monkeypatch.setattr(entries, "SMALL", 0)
        monkeypatch.setattr(scan, "CHUNK", 100_000)
    found = []
    for count in (1, 2, 3):
        output = tmp_path / f"out{count}"
        result = stage.convert(batch, output, readers=count)
        assert result.counts["messages"] > 25_000
        found.append({path.name: path.read_bytes() for path in output.iterdir()})
    assert found[0].keys() == {"chats.parquet", "messages.parquet", "manifest.json"}
    assert found[0] == found[1] == found[2]


#: The program of a reader that crashes on a certain message.
POISONED = """
import os
from flows.exports import json_export
parse = json_export.parse
json_export.parse = lambda block: os.abort() if b"poison" in block.data else parse(block)
"""


@pytest.mark.parametrize("largest", [0, 8 << 20])
def test_a_crash_of_a_reader_costs_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    monkeypatch.setattr(entries, "SMALL", largest)
    monkeypatch.setattr(scan, "CHUNK", 100_000)
    monkeypatch.setattr(readers, "_PROGRAM", POISONED + readers._PROGRAM)
    for number in range(1, 6):
        (folder := tmp_path / "in" / f"{number:06d}-a.zip").mkdir(parents=True)
        content = json.dumps(account(2_000), indent=1)
        (folder / "result.json").write_text(content.replace("1900", "poison") if number == 3 else content)
    found = stage.convert(tmp_path / "in", tmp_path / "out", readers=2).files
    blamed = [file.name for file in found if "crashed on it 2 times" in (file.reason or "")]
    assert blamed == ["000003-a.zip"]
    sources = pq.read_table(tmp_path / "out" / "messages.parquet")["source"].to_pylist()
    rows = [sources.count(file.name) for file in found]
    assert rows == [1_998, 1_998, rows[2], 1_998, 1_998]
    assert 0 < rows[2] < 1_900 if largest == 0 else rows[2] == 0  # the pieces before it are kept


def test_results_are_in_order_and_errors_come_after_the_results_before_them() -> None:
    def up_to_a_bad_end() -> Iterator[str]:
        yield from "012"
        raise BadInput("cut off")

    found: list[int | str] = []
    with Readers(2) as pool:
        assert list(pool.map(int, map(str, range(50)))) == [*range(50)]
        assert len(set(pool.map(CALL, [os.getpid] * 50)) - {os.getpid()}) <= 2
        for items in (["0", "1", "two", "3"], up_to_a_bad_end()):
            try:
                found.extend(pool.map(int, items))
            except (ValueError, BadInput) as error:
                found.append(str(error))
    assert found == [0, 1, "invalid literal for int() with base 10: 'two'", 0, 1, 2, "cut off"]


def test_a_reader_that_crashes_or_is_killed_is_replaced() -> None:
    before = set(psutil.Process().children())  # of fixtures
    with Readers(2) as pool:
        crashed, *others = pool.futures(CALL, [os.abort, os.getpid, partial(int, "7")])
        assert isinstance(crashed.exception(), ReaderCrashed)
        assert others[1].result() == 7
        killed = next(pool.futures(CALL, [partial(signal.raise_signal, signal.SIGKILL)]))
        assert isinstance(killed.exception(), OSError)  # the file is not to blame
        assert list(pool.map(int, "123")) == [1, 2, 3]
    assert set(psutil.Process().children()) <= before


def test_one_convert_is_counted_and_no_reader_outlives_it() -> None:
    code = """
import operator, os, signal
from flows.stages.convert.readers import Readers
pool = Readers(2)
print(*{*pool.map(operator.call, [os.getpid] * 50)}, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    before = set(psutil.Process().children())  # of fixtures
    with Readers(3) as pool:
        list(pool.map(int, "123456"))
        lines = [" ".join(child.cmdline()) for child in set(psutil.Process().children()) - before]
        assert len(lines) == 3
        assert not [line for line in lines if "flows" in line]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    ours = [psutil.Process(int(pid)) for pid in done.stdout.split() if psutil.pid_exists(int(pid))]
    assert not psutil.wait_procs(ours, 10)[1]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are not bound to processors here")
def test_a_process_bound_to_one_processor_reads_itself() -> None:
    code = """
import os
from flows.stages.convert.readers import Readers, processors
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
with Readers(processors()) as pool:
    print(processors(), set(pool.map(lambda _: os.getpid(), range(9))) == {os.getpid()})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 True\n"


def test_processors_that_are_idle_and_granted_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(readers, "_LOAD", tmp_path / "loadavg")
    for running, idle in ((1, 8), (12, 5), (40, 1)):
        (tmp_path / "loadavg").write_text(f"0.50 0.50 0.50 {running}/300 4711\n")
        assert idle_processors() == idle
    for quota, count in (("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1)):
        (group := tmp_path / "tdp.service").mkdir(exist_ok=True)
        (group / "cpu.max").write_text(quota)
        (tmp_path / "cgroup").write_text("0::/tdp.service\n")
        monkeypatch.setattr(readers, "_CGROUPS", tmp_path)
        monkeypatch.setattr(readers, "_OWN_CGROUP", tmp_path / "cgroup")
        assert processors() == count
