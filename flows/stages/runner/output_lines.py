"""The output of a stage's program as lines of a log, bounded in number and length."""

from __future__ import annotations

import re
from collections.abc import Callable

#: Lines of one stage run that are logged, and characters of one line: a flood must not fill the database.
MAX_LINES, MAX_CHARS = 500, 1_000
_END = re.compile(rb"[\r\n]+")
#: The result line is part of the contract of a stage, not a message.
_RESULT = re.compile(r'\{\s*"stage"\s*:')


class OutputLines:
    """Logs what a program writes to its two streams, line by line, while it runs."""

    def __init__(self, log: Callable[[str], None]) -> None:
        """``log`` is called with each line and the name of its stream: ``stderr: cannot open …``."""
        self._log = log
        self._open = {"stdout": b"", "stderr": b""}
        self._count = 0

    def feed(self, stream: str, data: bytes) -> None:
        """Log the lines that ``data`` completes; empty data ends the stream, and its last line."""
        if self._count > MAX_LINES:
            return
        *lines, rest = _END.split(self._open[stream] + data)
        if not data:
            lines, rest = [rest], b""
        # Of a line without an end only its beginning is kept.
        self._open[stream] = rest[: 4 * MAX_CHARS]
        for line in lines:
            self._log_line(stream, line.decode(errors="replace").rstrip())

    def _log_line(self, stream: str, line: str) -> None:
        if not line or _RESULT.match(line) or self._count > MAX_LINES:
            return
        self._count += 1
        if self._count > MAX_LINES:
            self._log(f"The program wrote more than {MAX_LINES} lines; the rest is not logged")
        else:
            self._log(f"{stream}: {line[:MAX_CHARS]}{'…' if len(line) > MAX_CHARS else ''}")
