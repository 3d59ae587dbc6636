"""Control characters as visible ones, on screens and in logs.

Names and texts come from strangers. Their control characters could set the title of a terminal, write to its
clipboard or show a file name backwards, and their line breaks could forge a line of a page or of a log. JSON
has them as escapes; an export has the data as they are.
"""

from __future__ import annotations

import logging
from typing import Any

#: C1 controls and characters that change the direction of what follows; no font has a picture of them. Nor of
#: the halves of pairs by which Python keeps the bytes of a file name that is not UTF-8.
_WITHOUT_PICTURE = tuple(
    code
    for first, end in ((0x80, 0xA0), (0x202A, 0x202F), (0x2066, 0x206A), (0xD800, 0xE000))
    for code in range(first, end)
)
#: The separators of lines and of paragraphs.
_SEPARATORS = (0x2028, 0x2029)
_PICTURES = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) != "\t"},
    0x7F: "\N{SYMBOL FOR DELETE}",
    **dict.fromkeys(_SEPARATORS, "\N{SYMBOL FOR NEWLINE}"),
    **dict.fromkeys(_WITHOUT_PICTURE, "\N{REPLACEMENT CHARACTER}"),
}
_PICTURES_IN_LINES = {code: picture for code, picture in _PICTURES.items() if chr(code) != "\n"}
#: JSON needs escapes for the C0 controls only.
_ESCAPES = {code: f"\\u{code:04x}" for code in (0x7F, *_SEPARATORS, *_WITHOUT_PICTURE)}


def visible(text: str) -> str:
    """Return the text as one line, with one visible character for each control character but tab."""
    return text.translate(_PICTURES)


def visible_lines(text: str) -> str:
    r"""Return the same, but keep its line breaks (``\n``): for texts that this program has assembled."""
    return text.translate(_PICTURES_IN_LINES)


def escaped(encoded: str) -> str:
    """Return JSON with escapes for the control characters that it need not escape."""
    return encoded.translate(_ESCAPES)


class VisibleRecord(logging.LogRecord):
    """A record of a log whose message is one line, and whose traceback begins no line at its margin.

    Every handler formats records: that of a file, that of a console and that of Prefect's server.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Format the traceback now: formatters use what a record has."""
        super().__init__(*args, **kwargs)
        if self.exc_info and self.exc_info[0]:
            lines = visible_lines(logging.Formatter().formatException(self.exc_info))
            self.exc_text = "  " + lines.replace("\n", "\n  ")

    def getMessage(self) -> str:  # noqa: N802 - the name is that of logging
        """Return the message with visible control characters."""
        return visible(super().getMessage())


def make_logs_visible() -> None:
    """Make all log records of this process VisibleRecords."""
    logging.setLogRecordFactory(VisibleRecord)
