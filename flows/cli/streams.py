"""Standard streams that the caller has closed, as ``tdp status >&-`` does.

Python has None for each of them, and PostgreSQL's socket could get the number of one: what a program prints
would be sent to the server.
"""

from __future__ import annotations

import errno
import io
import os
import sys

_CLOSED = "standard output is closed: redirect it to /dev/null if it is not wanted"


class _ClosedOutput(io.RawIOBase):
    """Writing to it is an error, which the command reports."""

    def writable(self) -> bool:
        """Return True, so that callers try to write."""
        return True

    def fileno(self) -> int:
        """Return the number of standard output."""
        return 1

    def write(self, _: object) -> int:
        """Raise OSError."""
        raise OSError(errno.EBADF, _CLOSED)


def open_closed_streams() -> None:
    """Open standard streams that are closed: an empty input, an output that is an error, no error output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number; those below it are open by now.
            os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY))
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(_ClosedOutput(), "utf-8", write_through=True)
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
