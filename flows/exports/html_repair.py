"""Repair what Telegram Desktop wrote into HTML without escaping it, and the layout that others gave it.

Initials in userpics were not escaped before 2.5.9; labels of buttons and answers that were added to a poll or
removed from it are not to this day. A ``<`` in them begins a tag that swallows the closing tags after it, and
so the messages after it.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice

#: The rest of a tag, behind the name of its class; a quoted value may contain ``>``. All lengths are bounded,
#: so that the time does not grow with the square of a line.
_ATTRIBUTES = r"""(?:["' ]|(?=>))(?:[^>"'\n]|"[^"\n]{0,200}+"|'[^'\n]{0,200}+'){0,300}+>"""
#: Blocks of raw text that contain a ``<``: the text ends with its line if it has a line of its own.
_INITIALS = re.compile(
    rf"""(\binitials{_ATTRIBUTES}\s*+)(?!</div>)([^\n<]{{0,99}}<(?!/div>)[^\n]{{0,99}}?)(\s*</div>)"""
)
_LABELS = re.compile(
    rf"""(\bbot_button{_ATTRIBUTES}\s*+<a [^\n]{{0,9999}}>\s*<div>\s*+)(?!</div>\s*</a>)"""
    r"""([^\n<]{0,999}<(?!/div>\s*</a>)[^\n]{0,999}?)(\s*</div>\s*</a>)"""
)
_ANSWERS = re.compile(
    r"""( (?:added|removed) &quot;)([^\n<]{0,999}<[^\n]{0,999}?)(&quot; (?:to|from) the poll\.\s*</div>)"""
)
#: The white space before the time of a message, or the text of a service message; so many of them decide, for
#: some programs leave short texts behind their tags. The time of a forwarded message has a space before it.
_FIRST = 20
_TEXT = re.compile(rb"""\b(?:pull_right date|body) details["'][^<>]{0,300}+>(\s*+)[^\s<]""")
_LINE_BREAKS = re.compile(rb"[\r\n]\s*+")
#: Spaces at the edges of an element and of a line, and what remains of each.
_SPACES = (
    (re.compile(rb" ?(<br\b[^<>]*+>) ?"), rb"\1"),
    (re.compile(rb"(<[a-zA-Z][^<>]*+>) "), rb"\1"),
    (re.compile(rb" (</)"), rb"\1"),
)
#: White space, and the bytes of all characters that may be.
_BLANK = rb"[\s\x1c-\x1f\x80-\xff]*+"
#: Fast signs of each; each begins with literal text. A character has up to four bytes.
_HINTS = [
    re.compile(rb"""initials["'][^>\n]{0,1200}+>%b[^\n<]{0,396}<(?!/div>)""" % _BLANK),
    re.compile(rb"""<div>%b[^\n<]*+<(?!/div>)""" % _BLANK),
    re.compile(rb"""&quot; (?:to|from) the poll\."""),
]


def without_layout(html: bytes) -> bytes:
    """Return ``html`` without the spaces of a layout that other programs gave it.

    Programs that format HTML put each tag and each text into a line of its own, and those that make it
    smaller leave one space of such a line. As in browsers, this is one space in the middle of a text.
    Telegram Desktop begins a text at the start of a line.
    """
    first = Counter(text[1] for text in islice(_TEXT.finditer(html), _FIRST))
    own = first[b"\n"] + first[b"\r\n"]
    if own >= first.total() - own - first[b""]:
        return html
    html = _LINE_BREAKS.sub(b" ", escaped(html))  # what is not escaped is recognised by its lines
    for pattern, kept in _SPACES:
        html = pattern.sub(kept, html)
    return html


def escaped(html: bytes) -> bytes:
    """Return ``html``, in UTF-8, with initials, labels of buttons and answers of polls escaped."""
    if not any(hint.search(html) for hint in _HINTS):
        return html
    text = html.decode()
    for pattern in (_INITIALS, _LABELS, _ANSWERS):
        text = pattern.sub(lambda found: f"{found[1]}{_escaped(found[2])}{found[3]}", text)
    return text.encode()


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;")
