"""Packages that only some commands need."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from flows.errors import PackageMissing


def package(name: str) -> Any:
    """Return the package. Raises PackageMissing, with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        install = f"{sys.executable} -m pip install {name}"
        raise PackageMissing(f"this needs the package {name}, which is not installed: {install}") from error
