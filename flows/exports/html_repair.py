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
#: Fast signs of each; each begins with literal text.
_HINTS = [
    re.compile(r"""initials["'][^>\n]{0,300}+>\s*+[^\n<]{0,99}<(?!/div>)"""),
    re.compile(r"""<div>\s*+[^\n<]*+<(?!/div>)"""),
    re.compile(r"""&quot; (?:to|from) the poll\."""),
]


def escaped(html: str) -> str:
    """Return ``html`` with initials, labels of buttons and answers of polls escaped."""
    if not any(hint.search(html) for hint in _HINTS):
        return html
    html = _INITIALS.sub(lambda found: f"{found[1]}{_escaped(found[2])}{found[3]}", html)
    html = _LABELS.sub(lambda found: f"{found[1]}{_escaped(found[2])}{found[3]}", html)
    return _ANSWERS.sub(lambda found: f"{found[1]}{_escaped(found[2])}{found[3]}", html)


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;")
