"""The umask: private for received data, the caller's for files without such data, such as pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_PRIVATE = 0o077
_callers = [_PRIVATE]


def make_private() -> None:
    """Let only the user of this process read the files that it writes from now on."""
    _callers[0] = os.umask(_PRIVATE)


@contextmanager
def callers_umask() -> Iterator[None]:
    """Create files with the umask with which this process was started."""
    before = os.umask(_callers[0])
    try:
        yield
    finally:
        os.umask(before)
