"""Block imports of optional dependencies, so that a stage's process starts quickly and stays small."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

#: Modules that Arrow imports only if they are installed: pandas (0.5 s of CPU, 60 MB) to check whether a list
#: is a pandas column, numpy (0.07 s of the 0.2 s that convert took to start, 12 MB) for arrays that are not
#: used here, dateutil (4 ms) for intervals, the others for files in cloud storage.
_BLOCKED = {"pandas", "numpy", "dateutil"}
_BLOCKED |= {f"pyarrow.{name}" for name in ("_azurefs", "_gcsfs", "_hdfs", "_s3fs")}
#: Stands for Arrow's parser of its own documentation: its imports (pydoc, ast) and its work for the functions
#: of compute take 9 ms of 90.
_NO_DOCUMENTATION = SimpleNamespace(NumpyDocString=lambda _: {"Parameters": []})
_NO_CERTIFICATES = SimpleNamespace(cafile=None, capath=None)


class _Blocker:
    """A finder; its base class in ``importlib.abc`` would take 5 ms to import."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname in _BLOCKED:
            raise ModuleNotFoundError(fullname)


def block_optional_imports() -> None:
    """Make imports of Arrow's optional dependencies fail in this process."""
    sys.meta_path.insert(0, _Blocker())
    sys.modules["pyarrow.vendored.docscrape"] = _NO_DOCUMENTATION  # type: ignore[assignment] # no module


@contextmanager
def without_tls() -> Iterator[None]:
    """Save the import of OpenSSL (8 ms), which Arrow's file systems ask where certificates are."""
    ssl = ModuleType("ssl")
    ssl.get_default_verify_paths = lambda: _NO_CERTIFICATES  # type: ignore[attr-defined]
    known = sys.modules.get("ssl")
    sys.modules["ssl"] = known or ssl
    try:
        yield
    finally:
        if not known:
            del sys.modules["ssl"]
