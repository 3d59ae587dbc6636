"""Coverage-guided fuzzing of the readers: ``fuzz.py archives|json|html [libFuzzer options]``.

Whatever bytes come, a reader ends in an outcome. What breaks that is written to ``.fuzz/<target>/`` and
becomes a case of tests/corpus. `make fuzz MINUTES=10` installs atheris and runs each target for that long.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "corpus")]

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
    from flows.exports.read import read_export
    from flows.exports.reading import Reading
    from flows.stages.entry import Entry
    from flows.stages.limits import Budget, Limits
    from flows.stages.unpacking import Unpacking

from archive_cases import ARCHIVES  # noqa: E402
from cases import Chat  # noqa: E402
from export_cases import EXPORTS  # noqa: E402

LIMITS = Limits(bytes=4 << 20, entries=1000, depth=8)
#: Larger seeds only slow it down.
SEED = 64 << 10
SCRATCH = Path(tempfile.mkdtemp(prefix="fuzz-"))


def archives(data: bytes) -> None:
    """Unpack it; nothing may be left where nothing was found."""
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
    """Read it as one JSON export."""
    _read(data, "json")


def html(data: bytes) -> None:
    """Read it as one part of an HTML export."""
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


def seeds(target: str) -> Path:
    """Write the corpus's cases to begin with."""
    folder = SCRATCH / "seeds"
    folder.mkdir()
    for number, case in enumerate(ARCHIVES if target == "archives" else EXPORTS):
        data = case.make(Chat(number))
        is_html = data.lstrip().startswith(b"<")
        if len(data) <= SEED and (target == "archives" or is_html == (target == "html")):
            (folder / f"{number:03}").write_bytes(data)
    return folder


def main(target: str, *options: str) -> None:
    """Run until an option of libFuzzer says to stop."""
    found = ROOT / ".fuzz" / target
    found.mkdir(parents=True, exist_ok=True)
    arguments = [
        f"-artifact_prefix={found}/",
        f"-max_len={SEED}",
        "-timeout=20",
        "-rss_limit_mb=1500",
        *options,
    ]
    os.environ["PATH"] = "/nowhere"  # no unpacker of RAR: its own bugs are not ours
    atheris.Setup([sys.argv[0], *arguments, str(seeds(target))], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
