"""The output of a stage's program as lines of a log, bounded in number and length."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

#: First lines of a stage run that are logged, and characters of a line: much output must not fill the
#: database.
MAX_LINES, MAX_CHARS = 500, 1_000
#: Last lines that are logged after those: they say how the program ended.
LAST_LINES = 50
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
        self._ended = 0
        self._last: deque[str] = deque(maxlen=LAST_LINES)

    def feed(self, stream: str, data: bytes) -> None:
        """Log the lines that ``data`` completes; empty data ends the stream, and its last line."""
        *lines, rest = _END.split(self._open[stream] + data)
        if not data:
            lines, rest = [rest], b""
        # Only the beginning of a line without an end is kept.
        self._open[stream] = rest[: 4 * MAX_CHARS]
        if self._count > MAX_LINES:  # only the last lines are kept in memory
            self._count += sum(map(bool, lines[:-LAST_LINES]))
            lines = lines[-LAST_LINES:]
        for line in lines:
            self._log_line(stream, line[: 4 * MAX_CHARS].decode(errors="replace").rstrip())
        if not data:
            self._ended += 1
        if self._ended == len(self._open):
            self._log_last()

    def _log_line(self, stream: str, line: str) -> None:
        if not line or _RESULT.match(line):
            return
        self._count += 1
        message = f"{stream}: {line[:MAX_CHARS]}{'…' if len(line) > MAX_CHARS else ''}"
        if self._count > MAX_LINES:
            self._last.append(message)
        else:
            self._log(message)
        if self._count == MAX_LINES + 1:
            self._log(
                f"The program has written {MAX_LINES} lines; of the rest, the last {LAST_LINES} are logged"
            )

    def _log_last(self) -> None:
        if (left_out := self._count - MAX_LINES - len(self._last)) > 0:
            self._log(f"{left_out:,} lines are left out here")
        while self._last:
            self._log(self._last.popleft())
