"""Coverage-guided fuzzing of the readers: ``fuzz.py archives|json|html [libFuzzer options]``.

A reader must return an outcome for all inputs. Inputs that violate this are written to ``.fuzz/<target>/``
and should be added to tests/corpus. `make fuzz MINUTES=10` installs atheris and runs each target that long.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

with atheris.instrument_imports(
    include=["flows", "zipfile", "tarfile", "gzip", "py7zr", "rarfile"], enable_loader_override=False
):
    import gzip  # noqa: F401
    import tarfile  # noqa: F401
    import zipfile  # noqa: F401

    import py7zr  # noqa: F401
    import rarfile  # noqa: F401

    from flows.errors import BadInput
    from flows.exports.discover import Export
    from flows.exports.formats import read_export
    from flows.exports.reading import Reading
    from flows.stages.extract.entry import Entry
    from flows.stages.extract.limits import Budget, Limits
    from flows.stages.extract.unpacking import Unpacking

LIMITS = Limits(bytes=4 << 20, entries=1000, depth=8)
SCRATCH = Path(tempfile.mkdtemp(prefix="fuzz-"))


def archives(data: bytes) -> None:
    """Unpack ``data``; no temporary files and no links may remain."""
    source, target = SCRATCH / "source", SCRATCH / "target"
    source.write_bytes(data)
    shutil.rmtree(target, ignore_errors=True)
    unpacking = Unpacking(Entry(target), Budget(len(data), LIMITS), media=True)
    try:
        unpacking.run(source)
    except BadInput as error:
        assert str(error)
    assert not list(SCRATCH.glob(".nested-*"))
    assert all(path.is_dir() or path.stat().st_nlink <= 2 for path in target.rglob("*"))


def json(data: bytes) -> None:
    """Read ``data`` as one JSON export."""
    _read(data, "json")


def html(data: bytes) -> None:
    """Read ``data`` as one part of an HTML export."""
    _read(data, "html")


def _read(data: bytes, form: str) -> None:
    path = SCRATCH / f"messages.{form}"
    path.write_bytes(data)
    reading = Reading("000001-x")
    rows = 0
    for batch in read_export(Export(form, (path,)), reading):
        batch.validate(full=True)
        rows += batch.num_rows
    assert rows == reading.messages
    reading.chat_rows()


TARGETS: dict[str, Callable[[bytes], None]] = {"archives": archives, "json": json, "html": html}


def main(target: str, *options: str) -> None:
    """Fuzz with the corpus as seeds until an option of libFuzzer ends it."""
    seeds = SCRATCH / "seeds"
    seeds.mkdir()
    # In another process: the instrumented standard library would take minutes to pack the seeds.
    subprocess.run([sys.executable, ROOT / "tests" / "corpus" / "seeds.py", target, seeds], check=True)
    found = ROOT / ".fuzz" / target
    found.mkdir(parents=True, exist_ok=True)
    arguments = [
        f"-artifact_prefix={found}/",
        "-max_len=65536",
        "-timeout=20",
        "-rss_limit_mb=1500",
        *options,
    ]
    os.environ["PATH"] = "/nowhere"  # no unpacker of RAR: its bugs are out of scope
    atheris.Setup([sys.argv[0], *arguments, str(seeds)], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
