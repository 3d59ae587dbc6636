"""Repair what Telegram Desktop wrote into HTML without escaping it.

Initials in userpics were not escaped before 2.5.9; labels of buttons and answers that were added to a poll or
removed from it are not to this day. A ``<`` in them begins a tag that swallows the closing tags after it, and
so the messages after it.
"""

from __future__ import annotations

import re

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
#: White space, and the bytes of all characters that may be.
_BLANK = rb"[\s\x1c-\x1f\x80-\xff]*+"
#: Fast signs of each; each begins with literal text. A character has up to four bytes.
_HINTS = [
    re.compile(rb"""initials["'][^>\n]{0,1200}+>%b[^\n<]{0,396}<(?!/div>)""" % _BLANK),
    re.compile(rb"""<div>%b[^\n<]*+<(?!/div>)""" % _BLANK),
    re.compile(rb"""&quot; (?:to|from) the poll\."""),
]


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
