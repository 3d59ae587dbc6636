"""Find the messages of a page: of most of them the head by a pattern, and the rest in a tree.

In the tree, one message takes the place of several heads: so all messages remain in order, and if markup that
is not closed has swallowed some of these places, the whole piece is read as a tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from selectolax.lexbor import LexborHTMLParser, LexborNode

from flows.exports.html_head import Head, head
from flows.exports.html_repair import escaped, without_layout
from flows.exports.html_text import classes

#: Where a message begins, whatever wrote it.
START = re.compile(rb"""<div\b[^<>]*\bclass=["']?message[ "'][^<>]*>""")
#: Messages and day bars, whatever their element; a fast sign of each.
_ELEMENT = re.compile(rb"""<\w+\b[^<>]*\bid=["']message-?\d""")
_SIGNS = (b'id="message', b"id='message")
#: Line breaks, also as editors and other programs rewrite them.
_BREAK = re.compile(rb"<br(?![\w\x80-\xff])[^<>]*>", re.IGNORECASE)

#: What takes the place of heads in the tree, with an id that no message has.
_PLACE_ID = "read-by-pattern"
_PLACE = b'<div class="message" id="%b">' % _PLACE_ID.encode()
_WHOLE, _WITH_REST = _PLACE + b"</div>", _PLACE + b'<div class="body">'
_WITHIN_FORWARDED = _WITH_REST + b'<div class="forwarded body">'

_Message = tuple[LexborNode, Head | None]
#: Heads of messages that follow one another, of which only the last may be incomplete.
_Run = list[Head]


class Piece(NamedTuple):
    """The messages of a piece: the node of each, and its head where the pattern has found one.

    The node of a message whose head is not complete has one child, with the blocks that follow the head.
    ``lost`` is the number of messages that others have swallowed. ``tree`` has all else of the piece.
    """

    tree: LexborHTMLParser
    messages: list[_Message]
    lost: int = 0


def read_piece(html: bytes) -> Piece:
    """Return the messages of a piece of a page, in UTF-8.

    Markup that is not escaped may take later messages with it. Then each message is read by itself.
    """
    whole = without_layout(html)
    rest, runs = _without_heads(whole)
    tree = _tree(rest)
    nodes = tree.css("div.message")
    if len(nodes) - len(runs) >= sum(map(rest.count, _SIGNS)) and _are_in_place(nodes, runs):
        return Piece(tree, list(_in_order(nodes, runs)))
    tree = _tree(whole)
    nodes = tree.css("div.message")
    if len(nodes) < (expected := len(_ELEMENT.findall(html))):
        begins = [match.start() for match in START.finditer(html)]
        apart = (_first(html[begin:end]) for begin, end in pairwise([*begins, len(html)]))
        nodes = [node for node in apart if node is not None]
    return Piece(tree, [(node, None) for node in nodes], max(0, expected - len(nodes)))


def _without_heads(html: bytes) -> tuple[bytes, list[_Run]]:
    """Return ``html`` with a place for each run of heads, and the runs."""
    parts: list[bytes] = []
    runs: list[_Run] = []
    at = 0
    for match in head().finditer(html):
        found, between = Head._make(match.groups(b"")), html[at : match.start()]
        if runs and _is_complete(runs[-1][-1]) and between.isspace():
            runs[-1].append(found)
            parts[-1] = _place(found)
        else:
            runs.append([found])
            parts += (between, _place(found))
        at = match.end()
    return b"".join([*parts, html[at:]]), runs


def _is_complete(found: Head) -> bool:
    return bool(found.end or found.service_id)


def _place(last: Head) -> bytes:
    if _is_complete(last):
        return _WHOLE
    return _WITHIN_FORWARDED if last.forwarded and not last.outer else _WITH_REST


def _are_in_place(nodes: list[LexborNode], runs: list[_Run]) -> bool:
    """Return whether the place of each run is there once, and holds what is left of its last message."""
    places = [node for node in nodes if node.id == _PLACE_ID]
    left = (node for node, run in zip(places, runs, strict=False) if not _is_complete(run[-1]))
    return len(places) == len(runs) and all(node.child and classes(node.child) == ["body"] for node in left)


def _in_order(nodes: list[LexborNode], runs: list[_Run]) -> Iterator[_Message]:
    left = iter(runs)
    for node in nodes:
        if node.id == _PLACE_ID:
            yield from ((node, found) for found in next(left))
        else:
            yield node, None


def _first(html: bytes) -> LexborNode | None:
    return _tree(without_layout(html)).css_first("div.message")


def _tree(html: bytes) -> LexborHTMLParser:
    # Line breaks of texts are <br>; inner_text() and text_parts() remove those of the file's layout.
    html = escaped(html).replace(b"<br>", b"\n").replace(b"<pre>", b"<pre>\n")
    has_breaks = html.rfind(b"<br") >= 0 or html.rfind(b"<BR") >= 0  # in vain, faster than `in`
    return LexborHTMLParser(_BREAK.sub(b"\n", html) if has_breaks else html)
