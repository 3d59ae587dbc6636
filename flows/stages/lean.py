"""What keeps a stage's process small and quick to start."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _NoPandas(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)
        return None


def without_pandas() -> None:
    """Keep this process from importing pandas.

    Arrow imports it (0.5 s of CPU, 60 MB) only to ask whether the lists it is given are columns of pandas.
    """
    sys.meta_path.insert(0, _NoPandas())
