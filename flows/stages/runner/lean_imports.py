"""What keeps a stage's process small and quick to start."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: What Arrow imports where it is installed, and does without where it is not: pandas (0.5 s of CPU, 60 MB)
#: only to ask whether the lists it is given are columns of pandas, numpy (0.07 s of the 0.2 s that convert
#: took to start, 12 MB) for arrays we never ask for, the others for files in the clouds.
_SPARED = {"pandas", "numpy", "pyarrow._azurefs", "pyarrow._gcsfs", "pyarrow._hdfs", "pyarrow._s3fs"}


class _Sparing(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in _SPARED:
            raise ModuleNotFoundError(fullname)
        return None


def spare_imports() -> None:
    """Keep this process from importing what Arrow can do without."""
    sys.meta_path.insert(0, _Sparing())
