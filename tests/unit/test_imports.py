"""The direction of imports, and the imports that a stage's process must not make."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def modules(package: str) -> list[str]:
    files = (ROOT / package).rglob("*.py")
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return sorted(name.removesuffix(".__init__") for name in names if ".migrations." not in name)


@pytest.mark.parametrize(
    "package", ["flows/stages", "flows/exports", "flows/ledger", "flows/samples", "flows/bot"]
)
def test_core_imports_no_prefect(package: str) -> None:
    names = [name for name in modules(package) if name != "flows.stages.runner.supervisor"]
    code = f"import sys\nfor name in {names!r}: __import__(name)\nprint('prefect' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert names
    assert done.stdout == "False\n"


def test_inbox_imports_no_prefect() -> None:
    code = "import sys, flows.batches.inbox\nprint('prefect' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_flow_starts_without_alembic() -> None:
    code = "import sys, flows.process_inbox\nprint('alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


#: The modules of the project that a room may import, besides its own.
FACTS = {"flows.domain", "flows.errors", "flows.settings", "flows.visible"}
MAY_IMPORT = {
    "flows.exports": FACTS,
    "flows.stages": FACTS | {"flows.exports", "flows.ledger"},
    "flows.ledger": FACTS | {"flows.stages.runner"},
    "flows.samples": FACTS,
    "flows.gate": FACTS | {"flows.ledger", "flows.stages.runner"},
    "flows.tables": FACTS | {"flows.ledger"},
    "flows.reports": FACTS | {"flows.ledger", "flows.services", "flows.tables", "blocks"},
    "flows.bot": FACTS | {"flows.batches", "flows.ledger", "flows.reports", "flows.services"},
    "flows.batches": FACTS
    | {"flows.gate", "flows.ledger", "flows.stages", "flows.reports", "blocks"}
    | {"flows.process_batch"},  # fan_out runs it as a subflow
}


def imported(file: Path) -> set[str]:
    """Return the modules of the project that ``file`` imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name.startswith(("flows.", "blocks", "deployments"))}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    below = {room, *MAY_IMPORT[room]}
    files = list((ROOT / room.replace(".", "/")).rglob("*.py"))
    offenders = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imported(file)
        if not any(name == allowed or name.startswith(f"{allowed}.") for allowed in below)
    ]
    assert files
    assert offenders == []


@pytest.mark.parametrize("stage", ["extract", "convert", "store"])
def test_stages_import_no_pandas(stage: str) -> None:
    code = f"import sys, flows.stages.{stage}.stage\nprint('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_no_package_imports_a_package_above_it() -> None:
    below = {"blocks": ["deployments", "flows.cli"], "flows": ["deployments"]}
    allowed = {"flows/cli", "flows/services"}
    offenders = [
        f"{file.relative_to(ROOT)} imports {user}"
        for package, users in below.items()
        for file in (ROOT / package).rglob("*.py")
        for user in users
        if not any(str(file.relative_to(ROOT)).startswith(prefix) for prefix in allowed)
        and any(
            line.strip().startswith((f"from {user}", f"import {user}"))
            for line in file.read_text().splitlines()
        )
    ]
    assert offenders == []
