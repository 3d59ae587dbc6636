"""Repair what Telegram Desktop wrote into HTML without escaping it.

Initials in userpics were not escaped before 2.5.9, and labels of buttons are not to this day. A ``<`` in
them begins a tag that swallows the closing tags after it, and so the messages after it.
"""

from __future__ import annotations

import re

_ATTRIBUTES = r"""(?:[^>"']|"[^"]*"|'[^']*')*>"""
#: Blocks of raw text that contain a ``<``: the text ends with its line if it has a line of its own.
_INITIALS = re.compile(
    rf"""(initials(?:"|'|\b){_ATTRIBUTES}\s*)(?!</div>)([^\n<]*<(?!/div>)[^\n]*?)(\s*</div>)"""
)
_LABELS = re.compile(
    rf"""(bot_button(?:"|'|\b)[^>]*>\s*<a\b{_ATTRIBUTES}\s*<div>)(\s*)(?!</div>\s*</a>)"""
    r"""([^\n<]*<(?!/div>\s*</a>)[^\n]*?)(\s*</div>\s*</a>)"""
)
_HINT = re.compile(r"""initials["'][^>\n]*>\s*[^\n<]*<(?!/div>)|<div>\s*[^\n<]*<(?!/div>\s*</a>)""")


def escaped(html: str) -> str:
    """Return ``html`` with initials and labels of buttons escaped."""
    if not _HINT.search(html):
        return html
    html = _INITIALS.sub(lambda found: f"{found[1]}{_escaped(found[2])}{found[3]}", html)
    return _LABELS.sub(lambda found: f"{found[1]}{found[2]}{_escaped(found[3])}{found[4]}", html)


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;")
