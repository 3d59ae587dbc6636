"""Block imports of optional dependencies, so that a stage's process starts quickly and stays small."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: Modules that Arrow imports only if they are installed: pandas (0.5 s of CPU, 60 MB) to check whether a list
#: is a pandas column, numpy (0.07 s of the 0.2 s that convert took to start, 12 MB) for arrays that are not
#: used here, the others for files in cloud storage.
_BLOCKED = {"pandas", "numpy", "pyarrow._azurefs", "pyarrow._gcsfs", "pyarrow._hdfs", "pyarrow._s3fs"}


class _Blocker(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in _BLOCKED:
            raise ModuleNotFoundError(fullname)
        return None


def block_optional_imports() -> None:
    """Make imports of Arrow's optional dependencies fail in this process."""
    sys.meta_path.insert(0, _Blocker())
