"""Where a JSON file ends too early or is not JSON: the reasons for which reading stops."""

from __future__ import annotations

from flows.errors import BadInput

CUT_OFF = "cut off in the middle: complete messages before that were kept; export or copy it again"


class CutOff(BadInput):
    """The file ends too early: the export or the copy was interrupted. Complete messages were kept."""


class Malformed(BadInput):
    """The file is not JSON from some byte on, and reading cannot go on. What precedes it was kept."""


class Joined(CutOff):
    """The file ends too early in the middle of it: at ``offset`` another document begins."""

    def __init__(self, offset: int) -> None:
        """``offset``: of the other document in the file."""
        super().__init__(f"another JSON document begins at byte {offset} in the middle of it: {CUT_OFF}")
        self.offset = offset

    def __reduce__(self) -> tuple[type[Joined], tuple[int]]:
        """Return what a forked reader sends: by default the message would be passed as the offset."""
        return Joined, (self.offset,)
