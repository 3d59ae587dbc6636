"""Find the messages of a page: of most of them the head by a pattern, and the rest in a tree.

In the tree, an empty message takes the place of a head: so all messages remain in order, and if markup that
is not closed has swallowed some of these places, the whole piece is read as a tree.
"""

from __future__ import annotations

import re
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

#: What takes the place of a head in the tree, with an id that no message has.
_PLACE_ID = "read-by-pattern"
_PLACE = b'<div class="message" id="%b">' % _PLACE_ID.encode()
_WHOLE, _WITH_REST = _PLACE + b"</div>", _PLACE + b'<div class="body">'
_WITHIN_FORWARDED = _WITH_REST + b'<div class="forwarded body">'

_Message = tuple[LexborNode, Head | None]


class Piece(NamedTuple):
    """The messages of a piece: the node of each, and its head where the pattern has found one.

    The node of a message with a head has one child: it has the blocks of the message behind its head.
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
    rest, heads = _without_heads(whole)
    tree, found = _read(rest, heads)
    if len(found) - len(heads) >= sum(map(rest.count, _SIGNS)) and _are_in_place(found, heads):
        return Piece(tree, found)
    tree, found = _read(whole, [])
    if len(found) >= (expected := len(_ELEMENT.findall(html))):
        return Piece(tree, found)
    begins = [match.start() for match in START.finditer(html)]
    apart = (_first(html[begin:end]) for begin, end in pairwise([*begins, len(html)]))
    found = [(node, None) for node in apart if node is not None]
    return Piece(tree, found, max(0, expected - len(found)))


def _without_heads(html: bytes) -> tuple[bytes, list[Head]]:
    """Return ``html`` with places in place of heads, and the heads."""
    parts: list[bytes] = []
    heads: list[Head] = []
    at = 0
    for match in head().finditer(html):
        heads.append(Head._make(match.groups(b"")))
        parts += (html[at : match.start()], _place(heads[-1]))
        at = match.end()
    return b"".join([*parts, html[at:]]), heads


def _place(found: Head) -> bytes:
    if found.end or found.service_id:
        return _WHOLE
    return _WITHIN_FORWARDED if found.forwarded and not found.outer else _WITH_REST


def _read(html: bytes, heads: list[Head]) -> tuple[LexborHTMLParser, list[_Message]]:
    tree, left = _tree(html), iter(heads)
    nodes = tree.css("div.message")
    return tree, [(node, next(left, None) if node.id == _PLACE_ID else None) for node in nodes]


def _are_in_place(found: list[_Message], heads: list[Head]) -> bool:
    """Return whether the place of each head is there once, and holds what is left of its message."""
    places = [(node, head) for node, head in found if node.id == _PLACE_ID]
    left = (node for node, head in places if not head or not (head.end or head.service_id))
    return len(places) == len(heads) and all(node.child and classes(node.child) == ["body"] for node in left)


def _first(html: bytes) -> LexborNode | None:
    return _tree(without_layout(html)).css_first("div.message")


def _tree(html: bytes) -> LexborHTMLParser:
    # Line breaks of texts are <br>; inner_text() and text_parts() remove those of the file's layout.
    html = escaped(html).replace(b"<br>", b"\n").replace(b"<pre>", b"<pre>\n")
    has_breaks = html.rfind(b"<br") >= 0 or html.rfind(b"<BR") >= 0  # in vain, faster than `in`
    return LexborHTMLParser(_BREAK.sub(b"\n", html) if has_breaks else html)
