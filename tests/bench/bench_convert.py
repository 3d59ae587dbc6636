"""Convert: speed and memory, compared with JSON parsers, pandas, a public converter and BeautifulSoup.

usage: python tests/bench/bench_convert.py [--quick]

Ours is the whole process of the stage, from its start to complete Parquet files; for the others, start and
imports are not counted. The main comparison is with orjson, which like ours reads every field of every
message.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import frame
from frame import Cost, Row, row

READERS = Path(__file__).with_name("readers.py")
MB = 1_000_000
BARE = ["orjson", "msgspec", "typed"]


def ours(folder: Path) -> Cost:
    output = folder.with_name("output")
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-I", "-m", "flows.stages.convert", str(folder), str(output)]
    return frame.process_cost(command)[0]


def with_peak(folder: Path, cost: Cost) -> Cost:
    """Return the cost with the peak memory of all processes, from an extra run: sampling slows it down."""
    with frame.Peak(0.02, below=True) as peak:
        alone = ours(folder).peak_mb
    return cost._replace(peak_mb=max(peak.mb, alone))


def theirs(reader: str, source: Path) -> Callable[[], Cost]:
    output = source.parents[1] / f"{reader}.out"
    return lambda: frame.reported_cost([sys.executable, str(READERS), reader, str(source), str(output)])


def write(folder: Path, writer: str, size: int) -> Path:
    """Write the material in a separate process, because children of this one inherit its peak memory."""
    entry = folder / "000001-chat"
    entry.mkdir(parents=True)
    target = entry / "result.json" if writer == "write_json" else entry
    code = f"import material; from pathlib import Path; material.{writer}(Path({str(target)!r}), {size})"
    frame.process_cost([sys.executable, "-c", f"import sys; sys.path[0] = {str(READERS.parent)!r}; {code}"])
    return target


def speed(size: int, cost: Cost) -> float:
    return size / MB / cost.seconds


def measure(quick: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="tdp-bench-") as name:
        yield from measure_json(Path(name) / "json", 20 * MB if quick else 100 * MB, 3 if quick else 5)
        for size in [MB] if quick else [MB, 2_000 * MB]:
            yield from measure_size(Path(name) / str(size), size)
        yield from measure_html(Path(name) / "html", 4 * MB if quick else 40 * MB)


def measure_json(folder: Path, size: int, rounds: int) -> Iterator[Row]:
    source = write(folder / "input", "write_json", size)
    names = [*BARE, "pandas", *(["chatpack"] if importlib.util.find_spec("chatpack") else [])]
    costs = frame.in_turns(
        rounds, {"ours": lambda: ours(folder / "input"), **{name: theirs(name, source) for name in names}}
    )
    own, label = with_peak(folder / "input", costs.pop("ours")), f"JSON, {size // MB} MB"
    yield row(f"{label}: speed", speed(size, own), "MB/s", **own._asdict())
    least = {"orjson": 0.6, "pandas": 5.0}
    for name, cost in costs.items():
        times = cost.seconds / own.seconds
        yield row(f"{label}: speed over {name}", times, "×", least=least.get(name), **frame.ratio(own, cost))
    yield row(f"{label}: peak memory", own.peak_mb, "MB", most=300, pandas=costs["pandas"].peak_mb)


def measure_size(folder: Path, size: int) -> Iterator[Row]:
    write(folder / "input", "write_json", size)
    cost = frame.in_turns(1 if size > 500 * MB else 5, {"ours": lambda: ours(folder / "input")})["ours"]
    cost = with_peak(folder / "input", cost)
    yield row(f"JSON, {size // MB:,} MB: speed", speed(size, cost), "MB/s", **cost._asdict())
    yield row(f"JSON, {size // MB:,} MB: peak memory", cost.peak_mb, "MB", most=300)
    shutil.rmtree(folder)


def measure_html(folder: Path, size: int) -> Iterator[Row]:
    pages = write(folder / "input", "write_html", size)
    size = sum(page.stat().st_size for page in pages.iterdir())
    contenders = {"ours": lambda: ours(folder / "input"), "soup": theirs("soup", pages)}
    costs = frame.in_turns(3 if size < 10 * MB else 1, contenders)
    own, soup = costs["ours"], costs["soup"]
    label = f"HTML, {size // MB} MB"
    yield row(f"{label}: speed", speed(size, own), "MB/s", **own._asdict())
    times = soup.seconds / own.seconds
    yield row(f"{label}: speed over BeautifulSoup", times, "×", least=3, **frame.ratio(own, soup))
    yield row(f"{label}: peak memory", own.peak_mb, "MB", most=300)


if __name__ == "__main__":
    frame.run(measure)
