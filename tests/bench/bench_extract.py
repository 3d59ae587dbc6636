"""Extract: the speed of its process, compared with unzip and with only reading the archives.

usage: python tests/bench/bench_extract.py [--quick]

Ten archives each. First exports only; then with media as nine tenths of the unpacked bytes, which extract
only lists: once stored, once deflated, as most archivers do even if it saves little.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import frame
import material
from frame import Cost, Row, row

MB = 1_000_000
ARCHIVES = 10


def write_archives(folder: Path, size: int, media: int, method: int) -> int:
    """Write archives of exports of ``size`` bytes and ``media`` bytes of media; return their bytes."""
    source = folder.with_name("source")
    source.mkdir(parents=True)
    folder.mkdir()
    # Like photos: almost no redundancy, so that deflate saves a few per cent.
    noise = random.Random(1).randbytes(1 << 20).translate(bytes(min(n, 239) for n in range(256)))
    for number in range(ARCHIVES):
        export = source / "result.json"
        material.write_json(export, size, chat=number + 1)
        with zipfile.ZipFile(folder / f"{number:06d}-chat.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(export, "ChatExport/result.json")
            for photo in range(media >> 20):
                archive.writestr(f"ChatExport/photos/photo_{photo}.jpg", noise, method)
    shutil.rmtree(source)
    return sum(path.stat().st_size for path in folder.iterdir())


def ours(folder: Path) -> Cost:
    output = folder.with_name("output")
    shutil.rmtree(output, ignore_errors=True)
    return frame.process_cost([sys.executable, "-I", "-m", "flows.stages.extract", str(folder), str(output)])[
        0
    ]


def unzip(folder: Path) -> Cost:
    output = folder.with_name("unzipped")
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    each = f'for file in {folder}/*.zip; do unzip -q -d "{output}/$(basename "$file")" "$file" || exit; done'
    return frame.process_cost(["sh", "-c", each])[0]


def read(folder: Path) -> Cost:
    return frame.process_cost(["sh", "-c", f"cat {folder}/*.zip > /dev/null"])[0]


def measure(quick: bool) -> Iterator[Row]:
    size, rounds = (2 * MB, 3) if quick else (20 * MB, 5)
    with tempfile.TemporaryDirectory(prefix="tdp-bench-") as name:
        root = Path(name)
        for label, media, method, least in [
            ("exports only", 0, zipfile.ZIP_STORED, 0.9),
            ("90 % media, deflated", 9 * size, zipfile.ZIP_DEFLATED, 10.0),
            ("90 % media, stored", 9 * size, zipfile.ZIP_STORED, 10.0),
        ]:
            folder = root / label.replace(" ", "-") / "input"
            total = write_archives(folder, size, media, method)
            contenders = {
                "ours": lambda folder=folder: ours(folder),
                "unzip": lambda folder=folder: unzip(folder),
                "read": lambda folder=folder: read(folder),
            }
            costs = frame.in_turns(rounds, contenders)
            own = costs["ours"]
            speed = total / MB / own.seconds
            yield row(f"{label}: speed", speed, "MB/s of archive", archive_mb=total / MB, **own._asdict())
            for other, goal in ("unzip", least), ("read", None):
                times = costs[other].seconds / own.seconds
                raw = frame.ratio(own, costs[other])
                yield row(f"{label}: speed over {other}", times, "×", least=goal, **raw)
            shutil.rmtree(folder.parent)


if __name__ == "__main__":
    frame.run(measure)
