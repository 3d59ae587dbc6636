"""Convert: speed and memory, compared with JSON parsers, pandas, a public converter and BeautifulSoup.

usage: [BEFORE=PYTHON] python tests/bench/bench_convert.py [--quick|--full]

Ours is the whole process of the stage, from its start to complete Parquet files, with as many readers as it
takes and with one; for the others, start and imports are not counted. The main comparison is with orjson,
which like ours reads every field of every message. BEFORE is the interpreter of another checkout's
environment, whose convert is measured by turns with ours. --full adds a file of 2 GB.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import frame
from frame import Cost, Row, row

from flows.stages.convert.readers import processors

READERS = Path(__file__).with_name("readers.py")
MB = 1_000_000
#: MB of all processes: the stage's own and its readers', of which a process gets one per processor.
MEMORY = 300 + 150 * processors()
BARE = ["orjson", "msgspec", "typed"]


def ours(folder: Path, *options: str, python: str = sys.executable) -> Cost:
    output = folder.with_name("output")
    shutil.rmtree(output, ignore_errors=True)
    command = [python, "-I", "-m", "flows.stages.convert", str(folder), str(output), *options]
    return frame.process_cost(command)[0]


def contenders(folder: Path, before: str) -> dict[str, Callable[[], Cost]]:
    """Return our convert with all readers and with one, and that of the interpreter ``before`` if given."""
    found = {"ours": lambda: ours(folder), "one reader": lambda: ours(folder, "--readers=1")}
    return found | ({"before": lambda: ours(folder, python=before)} if before else {})


def with_peak(folder: Path, cost: Cost) -> Cost:
    """Return the cost with the peak memory of all processes, from an extra run: sampling slows it down."""
    with frame.Peak(0.02, below=True) as peak:
        alone = ours(folder).peak_mb
    return cost._replace(peak_mb=max(peak.mb, alone))


def theirs(reader: str, source: Path) -> Callable[[], Cost]:
    output = source.parents[1] / f"{reader}.out"
    return lambda: frame.reported_cost([sys.executable, str(READERS), reader, str(source), str(output)])


def write(entry: Path, writer: str, size: int) -> Path:
    """Write the material in a separate process, because children of this one inherit its peak memory."""
    entry.mkdir(parents=True)
    target = entry / "result.json" if writer == "write_json" else entry
    code = f"import material; from pathlib import Path; material.{writer}(Path({str(target)!r}), {size})"
    frame.process_cost([sys.executable, "-c", f"import sys; sys.path[0] = {str(READERS.parent)!r}; {code}"])
    return target


def speed(size: int, cost: Cost) -> float:
    return size / MB / cost.seconds


def over(label: str, costs: dict[str, Cost], **least: float) -> Iterator[Row]:
    """Yield our speed over each of the others, with the least that it is to be."""
    own = costs.pop("ours")
    for name, cost in costs.items():
        times = cost.seconds / own.seconds
        yield row(f"{label}: speed over {name}", times, "×", least=least.get(name), **frame.ratio(own, cost))


def measure(quick: bool) -> Iterator[Row]:
    before = os.environ.get("BEFORE", "")
    with tempfile.TemporaryDirectory(prefix="tdp-bench-") as name:
        root, rounds = Path(name), 3 if quick else 5
        yield from measure_json(root / "json", 20 * MB if quick else 100 * MB, rounds, before)
        for size in [MB, 2_000 * MB] if frame.is_full() else [MB]:
            yield from measure_size(root / str(size), size, before)
        yield from measure_html(root / "html", 4 * MB if quick else 40 * MB, rounds, before)
        yield from measure_batch(root / "batch", 1 if quick else 5, rounds, before)


def measure_json(folder: Path, size: int, rounds: int, before: str) -> Iterator[Row]:
    source = write(folder / "input" / "000001-chat", "write_json", size)
    names = [*BARE, "pandas", *(["chatpack"] if importlib.util.find_spec("chatpack") else [])]
    others = {name: theirs(name, source) for name in names}
    costs = frame.in_turns(rounds, {**contenders(folder / "input", before), **others})
    own, label = with_peak(folder / "input", costs["ours"]), f"JSON, {size // MB} MB"
    pandas = costs["pandas"].peak_mb
    yield row(f"{label}: speed", speed(size, own), "MB/s", **own._asdict())
    yield from over(label, costs, orjson=0.6, pandas=5.0)
    yield row(f"{label}: peak memory", own.peak_mb, "MB", most=MEMORY, pandas=pandas)


def measure_size(folder: Path, size: int, before: str) -> Iterator[Row]:
    write(folder / "input" / "000001-chat", "write_json", size)
    costs = frame.in_turns(1 if size > 500 * MB else 9, contenders(folder / "input", before))
    cost = with_peak(folder / "input", costs["ours"])
    label = f"JSON, {size // MB:,} MB"
    yield row(f"{label}: seconds", cost.seconds, "s", **cost._asdict())
    yield from over(label, costs)
    yield row(f"{label}: peak memory", cost.peak_mb, "MB", most=MEMORY)
    shutil.rmtree(folder)


def measure_html(folder: Path, size: int, rounds: int, before: str) -> Iterator[Row]:
    pages = write(folder / "input" / "000001-chat", "write_html", size)
    size = sum(page.stat().st_size for page in pages.iterdir())
    costs = frame.in_turns(rounds, contenders(folder / "input", before))
    costs |= frame.in_turns(rounds if size < 10 * MB else 1, {"BeautifulSoup": theirs("soup", pages)})
    own, label = with_peak(folder / "input", costs["ours"]), f"HTML, {size // MB} MB"
    yield row(f"{label}: speed", speed(size, own), "MB/s", least=25, **own._asdict())
    yield from over(label, costs, BeautifulSoup=3.0)
    yield row(f"{label}: peak memory", own.peak_mb, "MB", most=MEMORY)


def measure_batch(folder: Path, unit: int, rounds: int, before: str) -> Iterator[Row]:
    """Ten source files, JSON and HTML in turns, of 0.2 to 2.4 times ``unit`` MB."""
    for number, times in enumerate([1.0, 0.6, 0.4, 1.0, 1.6, 0.2, 2.4, 0.4, 0.2, 0.8], 1):
        writer = "write_html" if number in (2, 4, 6, 8, 10) else "write_json"
        write(folder / "input" / f"{number:06d}-chat", writer, int(times * unit * MB))
    size = sum(path.stat().st_size for path in folder.rglob("*.*"))
    costs = frame.in_turns(rounds, contenders(folder / "input", before))
    own, label = with_peak(folder / "input", costs["ours"]), f"10 mixed files, {size // MB} MB"
    yield row(f"{label}: speed", speed(size, own), "MB/s", **own._asdict())
    yield from over(label, costs, before=1.6)
    yield row(f"{label}: peak memory", own.peak_mb, "MB", most=MEMORY)


if __name__ == "__main__":
    frame.run(measure)
