"""Stages that run code of a test, and files for them."""

from __future__ import annotations

import sys
from typing import Any

from block_documents import write_pipeline, write_stage

from flows.settings import Settings


def drop(settings: Settings, count: int) -> None:
    settings.inbox.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (settings.inbox / f"{number}.zip").write_text(f"{settings.home} {number}")


async def configure(settle_seconds: float = 0, **values: Any) -> None:
    write_pipeline(settle_seconds=settle_seconds, **values)


async def command(stage: str, code: str) -> None:
    """Let ``stage`` run Python code with input and output directories in sys.argv."""
    argv = [sys.executable, "-c", code.replace("{", "{{").replace("}", "}}"), "{input}", "{output}"]
    write_stage(stage, *argv)


COPY = "import os, shutil, sys; shutil.copytree(sys.argv[1], sys.argv[2])"
FAIL_WHILE = """
import os, shutil, sys
if os.path.exists({mark!r}) and any("-{name}" in name for name in os.listdir(sys.argv[1])):
    sys.exit("not today")
shutil.copytree(sys.argv[1], sys.argv[2])
"""
