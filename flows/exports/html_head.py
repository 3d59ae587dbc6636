"""Read what most messages of a page consist of by one pattern, in a fifth of the time that a tree takes.

The pattern is Telegram Desktop's own layout. It matches a message up to the first block that it does not
know: a message that begins in another way not at all, one with further blocks in part.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

#: Text and values of attributes without elements, with what Telegram Desktop escapes; a parser of HTML reads
#: other characters and references in ways of its own.
_TEXT = r"[^<>&\0\r]*+(?:(?:&(?:quot|apos|amp|lt|gt|nbsp|laquo|raquo);|<br>)[^<>&\0\r]*+)*+"
_VALUE = r'[^<>&\0\r"]*+(?:&(?:quot|apos|amp|lt|gt);[^<>&\0\r"]*+)*+'
_STYLE = r'(?: style="[^"<>]*+")?+'
#: Formatted text; in another, elements are nested or unknown.
_ELEMENT = rf"""<(?P<{{0}}>strong|em|u|s|code|blockquote)>{_TEXT}</(?P={{0}})>"""
_LINK = rf"""<a(?: href ?= ?"{_VALUE}")?+(?: onclick="{_VALUE}")?+>{_TEXT}</a>"""

_TIME = r'(?P<day>\d\d\.\d\d\.\d{4}) (?P<clock>\d\d:\d\d:\d\d)(?P<zone>[^"<>&\0\r]*+)'

#: In all that follow, a new line stands for white space or none.
_USERPIC = rf"""
    <div class="pull_left (?:forwarded )?+userpic_wrap">
    <div class="userpic userpic\d"{_STYLE}>
    <div class="initials"{_STYLE}>[^<>]*+</div>
    </div>
    </div>"""
_SERVICE = rf"""service" id="message(?P<service_id>-?\d{{1,18}})">
    <div class="body details">(?P<service_text>{_TEXT})</div>
    </div>"""
_SENT = rf"""default clearfix(?: joined)?+" id="message(?P<id>-?\d{{1,18}})">
    (?:{_USERPIC})?+
    <div class="body">
    <div class="pull_right date details" title="{_TIME}">[^<>]*+</div>
    (?:<div class="from_name">(?!<)(?P<name>{_TEXT})</div>)?"""
_ORIGIN_TIME = rf'<span class="date details" title="(?P<origin_time>[^"<>&\0\r]++)">(?P<origin_shown>{_TEXT})'
_FORWARDED = rf"""
    (?P<forwarded>(?:{_USERPIC})?+
    <div class="forwarded body">)
    (?:<div class="from_name">(?P<origin>{_TEXT}{_ORIGIN_TIME}</span>\s*+)</div>)?"""
_REPLY = rf"""
    <div class="reply_to details">(?:
    [^<>]*+<a href="(?:messages\d*+\.html)?+#go_to_message(?P<target>-?[1-9]\d{{0,17}})"[^<>]*+>
    [^<>]*+</a>
    |(?!<)(?P<reply>{_TEXT}))</div>"""
#: Media without a thumbnail; with a title and a status, so that none is without any member.
_KIND = r"media_(?P<kind>(?!call|poll|giveaway)\w++)"
_PHOTO = rf"""
    <a class="photo_wrap clearfix pull_left" href="(?P<photo>(?![."]){_VALUE})">
    <img\b[^<>]*+>
    </a>"""
_MEDIA = rf"""
    <div class="media_wrap clearfix">(?:{_PHOTO}|
    <(?P<tag>a|div) class="media clearfix pull_left (?:block_link )?+{_KIND}"
    (?:href="(?P<link>{_VALUE})")?>
    <div class="fill pull_left">
    </div>
    <div class="body">
    <div class="title bold">(?=\s*+[^<>\s])(?P<title>{_TEXT})</div>
    (?:<div class="description">(?P<description>{_TEXT})</div>)?
    <div class="status details">(?=\s*+[^<>\s])(?P<status>{_TEXT})</div>
    </div>
    </(?P=tag)>)
    </div>"""
_FORMATTED = rf"""
    <div class="text">(?!</)(?P<text>{_TEXT}(?:(?:{_ELEMENT.format("format")}|{_LINK}){_TEXT})*)</div>"""
_SIGNATURE = rf"""
    <div class="signature details">(?!<)(?P<author>{_TEXT})</div>"""
_REACTION = """
    <span class="reaction">
    <span class="emoji">{0}</span>
    <span class="count">{0}</span>
    </span>"""


def _compiled(pattern: str) -> re.Pattern[bytes]:
    return re.compile(re.sub(r"\n\s+", r"\\s*+", pattern).encode())


@cache
def reaction() -> re.Pattern[bytes]:
    """Return the pattern that finds the emoji and the count of each of the ``reactions`` of a head."""
    return _compiled(_REACTION.format(f"({_TEXT})"))


@cache
def head() -> re.Pattern[bytes]:
    """Return the pattern of a :class:`Head`, compiled late: it takes 5 ms, and most exports are JSON."""
    return _compiled(
        rf"""<div class="message (?:{_SERVICE}|{_SENT}
        (?:{_FORWARDED})?(?:{_REPLY})?(?:{_MEDIA})?(?:{_FORMATTED})?(?:{_SIGNATURE})?
        (?P<outer>(?(forwarded)</div>)(?:
        <span class="reactions">(?P<reactions>(?:{_REACTION.format(_TEXT)})++)
        </span>)?(?P<end>
        </div>
        </div>)?)?)"""
    )


class Head(NamedTuple):
    """What the pattern has found of a message, by its groups, as it is written in HTML; empty: not there.

    ``service_id`` and ``service_text`` belong to service messages, all others to other messages. ``outer`` is
    set if what is left follows a forwarded message, and does not belong to it. ``end``: nothing is left.
    """

    service_id: bytes
    service_text: bytes
    id: bytes
    day: bytes
    clock: bytes
    zone: bytes
    name: bytes
    forwarded: bytes
    origin: bytes
    origin_time: bytes
    origin_shown: bytes
    target: bytes
    reply: bytes
    photo: bytes
    tag: bytes
    kind: bytes
    link: bytes
    title: bytes
    description: bytes
    status: bytes
    text: bytes
    format: bytes
    author: bytes
    outer: bytes
    reactions: bytes
    end: bytes
