"""A block of messages as the scanner cuts it out of a JSON file."""

from __future__ import annotations

from typing import NamedTuple


class Block(NamedTuple):
    """Some elements of an array, separated by commas, and the means to split them without parsing."""

    data: bytes
    separator: bytes = b""  # between any two elements, and within no JSON string
    elements: tuple[bytes, ...] = ()  # set if the layout has no such separator
    start: int = 0  # offset of the data in the file; of its first element, if the layout has no separator
    outer: bytes = b""  # line break and indentation of the array that holds the elements
    missing_commas: int = 0  # between the elements, if they were found one by one

    def pieces(self) -> list[bytes]:
        """Return the elements one by one."""
        if self.elements:
            return list(self.elements)
        # A separator holds the end of one object and the start of the next: "},\n  {".
        head, tail = self.separator[:1], self.separator[-1:]
        first, *rest = self.data.split(self.separator)
        return [
            first + head * bool(rest),
            *(tail + piece + head for piece in rest[:-1]),
            *(tail + piece for piece in rest[-1:]),
        ]
