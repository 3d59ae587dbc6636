"""The benchmarks, with one table at the end: python tests/bench/bench.py [--quick|--full] [--keep] [PART ...]

Without PART, the parts run that compare the product with alternatives, some 20 minutes; with --full all, in
full size. Each part runs as a process of its own. The rows are also written to .bench/results.json, one
object each, and the stderr of a part to .bench/PART.log. Ratios are those of medians of one run, so other
load on the machine affects them less than the absolute figures; the amount of other load is printed below the
table. --keep also replaces the parts' sections in RESULTS.md, with which a later run is compared by eye.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil
import results
from frame import Row
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
OUTPUT = Path(".bench")
COMPARED = ["scheduling", "convert", "store", "extract", "end_to_end", "tables"]
PARTS = [*COMPARED, "arrival", "handover", "start", "growth", "ledger", "backfill"]


class Done(NamedTuple):
    """The rows of one part, its exit status and seconds, and the cores that other processes kept busy."""

    rows: list[Row]
    status: int
    seconds: float
    others: float


def run_part(name: str, size: list[str], console: Console) -> Done:
    rows = []
    busy, ours, began = _busy(), _ours(), time.monotonic()
    argv = [sys.executable, str(HERE / f"bench_{name}.py"), *size]
    with (
        (OUTPUT / f"{name}.log").open("w") as log,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                rows.append(msgspec.json.decode(line, type=Row))
                console.print(f"{name}: {rows[-1].name}  {shown(rows[-1])}{by_cpu(rows[-1])}")
        except BaseException:
            process.terminate()  # it stops its services; leaving this block waits for that
            raise
    seconds = time.monotonic() - began
    others = max(0.0, (_busy() - busy - (_ours() - ours)) / seconds)
    return Done(rows, process.returncode, seconds, others)


def shown(row: Row) -> str:
    digits = 0 if abs(row.value) >= 100 else 1 if abs(row.value) >= 10 else 2
    return f"{row.value:,.{digits}f} {row.unit}"


def by_cpu(row: Row) -> str:
    """Return the ratio by CPU time of all threads and processes, which other load affects less."""
    return f" ({row.raw['by_cpu']:.2f})" if "by_cpu" in row.raw else ""


def print_table(parts: dict[str, Done], console: Console) -> None:
    table = Table("part", "what", "figure (by CPU)", "target", "met")
    for name, done in parts.items():
        for row in done.rows:
            met = {None: "", True: "[green]yes[/]", False: "[red]NO[/]"}[row.met]
            table.add_row(name, row.name, shown(row) + by_cpu(row), row.target or "", met)
        if done.status:
            table.add_row(name, f"[red]exited with status {done.status}: see {OUTPUT}/{name}.log[/]")
    console.print(table)


def machine() -> str:
    memory = psutil.virtual_memory().total / 1e9
    return (
        f"{_cpu_model()}, {psutil.cpu_count()} cores, {memory:.0f} GB, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}"
    )


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()
    )


def _busy() -> float:
    times = psutil.cpu_times()
    return sum(times[:3]) + sum(getattr(times, name, 0.0) for name in ("irq", "softirq"))


def _ours() -> float:
    """Return the CPU seconds of this process and of all ended descendants; a part waits for its own."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> int:
    parser = argparse.ArgumentParser(description="The benchmarks, with one table at the end.")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="append_const", const="--quick", dest="size", help="small inputs")
    sizes.add_argument("--full", action="append_const", const="--full", dest="size", help="all, in full size")
    parser.add_argument("--keep", action="store_true", help="replace the parts' sections in RESULTS.md")
    of = f"of: {', '.join(PARTS)} (default: the first {len(COMPARED)}, with --full all)"
    parser.add_argument("parts", nargs="*", metavar="PART", help=of)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    console = Console(width=max(120, Console().width), highlight=False)
    OUTPUT.mkdir(exist_ok=True)
    size: list[str] = options.size or []
    load = os.getloadavg()
    names = options.parts or (PARTS if "--full" in size else COMPARED)
    parts = {name: run_part(name, size, console) for name in names}
    print_table(parts, console)
    console.print(machine(), results.versions(), sep="\n")
    console.print(f"load before {load[0]:.1f}, after {os.getloadavg()[0]:.1f}")
    for name, done in parts.items():
        head = f"{done.seconds / 60:.0f} min, {done.others:.1f} cores busy with other work"
        console.print(f"{name}: {head}")
        if options.keep and not done.status:
            command = " ".join(['make bench ARGS="--keep', *size, name]) + '"'
            lines = [(one.name, shown(one) + by_cpu(one), one.target or "") for one in done.rows]
            results.keep(name, [command, results.versions(), machine(), head], lines)
    rows = [row for done in parts.values() for row in done.rows]
    (OUTPUT / "results.json").write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")
    failed = any(done.status for done in parts.values())
    return 1 if failed or any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
