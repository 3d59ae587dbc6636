"""The direction of imports, and what a stage's process pays for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def modules(package: str) -> list[str]:
    files = (ROOT / package).rglob("*.py")
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return sorted(name.removesuffix(".__init__") for name in names if ".migrations." not in name)


@pytest.mark.parametrize("package", ["flows/stages", "flows/exports", "flows/ledger", "flows/samples"])
def test_core_imports_no_prefect(package: str) -> None:
    names = [name for name in modules(package) if name != "flows.stages.supervise"]
    code = f"import sys\nfor name in {names!r}: __import__(name)\nprint('prefect' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert names
    assert done.stdout == "False\n"


@pytest.mark.parametrize("module", ["flows.fence", "flows.inbox"])
def test_fence_and_inbox_import_no_prefect(module: str) -> None:
    code = f"import sys, {module}\nprint('prefect' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("stage", ["extract", "convert", "store"])
def test_stages_import_no_pandas(stage: str) -> None:
    code = f"import sys, flows.stages.{stage}\nprint('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_nothing_imports_its_user() -> None:
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
