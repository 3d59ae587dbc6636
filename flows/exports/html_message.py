"""Translate a message of an HTML export into the members that the JSON export has."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from selectolax.lexbor import LexborNode

from flows.exports import html_media
from flows.exports.html_actions import action_of
from flows.exports.html_head import Head
from flows.exports.html_text import (
    attribute,
    classes,
    inner_text,
    inner_text_of,
    joined,
    local_path,
    parts_of,
    rich_message,
    text_and_links,
    text_parts,
    unescaped,
)
from flows.exports.pages import DAY_BARS
from flows.exports.zones import Clock

_TIME = re.compile(r"(\d\d\.\d\d\.\d{4}) (\d\d:\d\d:\d\d)")
_ZONE = re.compile(r" (?:(?:UTC)?([+-]\d\d)(?::?(\d\d))?|(UTC|GMT|CET|EET|MSK))(?!\S)")
#: Abbreviations as labels, of releases for Linux in some languages.
_LABELS = {"UTC": "+00:00", "GMT": "+00:00", "CET": "+01:00", "EET": "+02:00", "MSK": "+03:00"}
_ID = re.compile(r"(?:message)?(-?\d{1,18})")
_VIA = re.compile(r"\s+via (@\w+)\s*$")
_REPLY = re.compile(r"go_to_message(-?\d+)")
_UNSUPPORTED = "This message is not supported by this version of Telegram Desktop."
_DELETED = "Deleted Account"
#: Blocks beside or within the body of a message that say nothing about it: pictures of senders, and later
#: messages within one that is not closed.
_NOT_ITS_OWN = {"userpic_wrap", "message", "pagination"}


@dataclass
class Above:
    """Members that a ``joined`` message inherits from the message above it, also across parts."""

    sender: dict[str, Any] = field(default_factory=dict)
    forward: dict[str, Any] = field(default_factory=dict)


def is_numbered(node: LexborNode) -> bool:
    """Return whether a message has an id, as all of Telegram Desktop have."""
    return _ID.fullmatch(attribute(node, "id")) is not None


def message(node: LexborNode, head: Head | None, above: Above, clock: Clock) -> dict[str, Any] | None:
    """Return the members of a message, which may lack an id; None for a day bar."""
    if head:
        return _with_head(node, head, above, clock)
    number = _ID.fullmatch(node.id or "")
    found: dict[str, Any] = {"id": int(number[1]) if number else None}
    # Programs that replace names in pages leave service messages without a body.
    body = next((child for child in node.iter() if "body" in classes(child)), node)
    if "service" in classes(node):
        return None if found["id"] in DAY_BARS else _service(node, body, found)
    found |= {"type": "message", "text": ""}
    return _body(body.iter(), found, above, clock)


def _with_head(node: LexborNode, head: Head, above: Above, clock: Clock) -> dict[str, Any] | None:
    if head.service_id:
        number = int(head.service_id)
        if number in DAY_BARS:
            return None
        return _service_text({"id": number}, inner_text_of(head.service_text), None)
    found: dict[str, Any] = {"id": int(head.id), "type": "message", "text": ""}
    found |= _sent(head.day.decode(), head.clock.decode(), head.zone.decode(), clock)
    if head.name:
        above.sender = _sender_of(head.name)
    _add_blocks(found, head)
    if head.origin:
        above.forward = _origin_of(head, clock)
    if head.forwarded and head.outer:
        found |= above.forward
    if head.reactions:
        found["reactions"] = html_media.reactions_of(head.reactions)
    if head.end:
        return _complete(found, above, named=bool(head.name))
    return _body(node.child.iter() if node.child else (), found, above, clock, named=bool(head.name))


def _add_blocks(found: dict[str, Any], head: Head) -> None:
    """Add the members of the blocks of a message that may be within a forwarded one."""
    if head.target:
        found["reply_to_message_id"] = int(head.target)
    elif head.reply:
        found["reply_to"] = inner_text_of(head.reply)
    if head.photo:
        found["photo"] = local_path(unescaped(head.photo))
    elif head.status:
        found |= html_media.media_of(head)
    if head.text:
        parts = parts_of(head.text)
        found |= {"text": joined(parts), "text_entities": parts}
    if head.author:
        found["author"] = inner_text_of(head.author)


def _service(node: LexborNode, body: LexborNode, found: dict[str, Any]) -> dict[str, Any]:
    found = _service_text(found, joined(text_parts(body)), _target(body))
    if found["type"] == "unsupported":
        return found
    for block in node.iter() if body is not node else ():
        names = classes(block)
        if "userpic_wrap" in names:
            found |= _photo(block)
        elif "body" not in names:
            _add(found, block, names)
    return found


def _service_text(found: dict[str, Any], text: str, target: int | None) -> dict[str, Any]:
    if text.startswith(_UNSUPPORTED):
        return found | {"type": "unsupported"}
    return found | {"type": "service", "text": text, **action_of(text, target)}


def _photo(block: LexborNode) -> dict[str, Any]:
    """Return the photo beside a service message that is about it."""
    link = block.css_first("a")
    return {"photo": local_path(attribute(link, "href"))} if link else {}


def _body(
    blocks: Iterable[LexborNode], found: dict[str, Any], above: Above, clock: Clock, *, named: bool = False
) -> dict[str, Any]:
    for child in blocks:
        names = classes(child)
        if "date" in names:
            found |= _date(attribute(child, "title") or inner_text(child), clock)
        elif "from_name" in names:
            above.sender, named = _sender(inner_text(child)), True
        elif "forwarded" in names and "body" in names:
            found |= _forwarded(child, found, above, clock)
        else:
            _add(found, child, names)
    return _complete(found, above, named=named)


def _complete(found: dict[str, Any], above: Above, *, named: bool) -> dict[str, Any]:
    """Return the members of a message with those that it inherits; ``named``: it has a sender of its own."""
    if named and "forwarded_from" not in found:
        above.forward = {}
    found |= above.sender
    if called := found.pop("call", None):
        found |= {"type": "service", **called, "actor": found.pop("from", None)}
    return found


def _forwarded(body: LexborNode, found: dict[str, Any], above: Above, clock: Clock) -> dict[str, Any]:
    for child in body.iter():
        names = classes(child)
        if "from_name" in names:
            above.forward = _origin_in(child, clock)
        else:
            _add(found, child, names)
    return above.forward


def _add(found: dict[str, Any], node: LexborNode, names: list[str]) -> None:
    """Add the members of a block to those ``found`` of its message.

    A block of a class that no known release has, and a second block with a member that was found already, are
    kept in ``other_blocks`` by their text and links.
    """
    content = _content(node, names)
    if content and not any(found.get(key) for key in content):
        found |= content
    elif _NOT_ITS_OWN.isdisjoint(names) and (block := text_and_links(node)):
        found.setdefault("other_blocks", []).append(block)


def _content(node: LexborNode, names: list[str]) -> dict[str, Any]:
    if "rich_message" in names:
        return rich_message(node)
    if "text" in names:
        parts = text_parts(node)
        return {"text": joined(parts), "text_entities": parts}
    if "media_wrap" in names:
        return html_media.media(node)
    if "reply_to" in names:
        target = _target(node)
        return {"reply_to_message_id": target} if target else {"reply_to": inner_text(node)}
    if "signature" in names:
        return {"author": inner_text(node)}
    if "reactions" in names:
        return {"reactions": html_media.reactions(node)}
    if "bot_buttons_table" in names:
        return {"inline_bot_buttons": html_media.buttons(node)}
    return {}


@lru_cache(1000)
def _sender(name: str) -> dict[str, Any]:
    """Return the members of a sender, in a dictionary that messages share."""
    via = _VIA.search(name)
    name = (name[: via.start()] if via else name).strip()
    return {"from": None if name == _DELETED else name, **({"via_bot": via[1]} if via else {})}


@lru_cache(1000)
def _sender_of(raw: bytes) -> dict[str, Any]:
    return _sender(inner_text_of(raw))


def _origin_in(node: LexborNode, clock: Clock) -> dict[str, Any]:
    """Return the origin of a forwarded message and the time at which it was first sent.

    Releases before 3.7.6 (2022-06) wrote the time without a title, in a ``details`` that is not a ``date``.
    """
    stamp = node.css_first("span.details")
    if not stamp:
        return _origin(inner_text(node), "", "", clock)
    return _origin(
        inner_text(node), stamp.text() or "", attribute(stamp, "title") or inner_text(stamp), clock
    )


def _origin_of(head: Head, clock: Clock) -> dict[str, Any]:
    shown, time = unescaped(head.origin_shown), head.origin_time.decode()
    return _origin(inner_text_of(head.origin), shown, time, clock)


def _origin(text: str, shown: str, time: str, clock: Clock) -> dict[str, Any]:
    sender = _sender(text.removesuffix(shown))
    found = {"forwarded_from" if key == "from" else key: value for key, value in sender.items()}
    if time and (sent := _date(time, clock)):
        found |= {f"forwarded_{key}": value for key, value in sent.items()}
    return found


def _target(node: LexborNode) -> int | None:
    for link in node.traverse():
        if link.tag == "a" and (match := _REPLY.search(attribute(link, "href"))):
            return int(match[1])
    return None


def _date(title: str, clock: Clock) -> dict[str, str]:
    """Return local time, and Unix time if it is certain: ``18.07.2023 00:58:43 UTC+08:00``.

    The label is the offset of standard time, also in summer (:mod:`flows.exports.zones`). A time in another
    form is returned as it is.
    """
    match = _TIME.search(title)
    if not match:
        return {"date": title.strip()} if title.strip() else {}
    return _sent(match[1], match[2], title[match.end() :], clock)


def _sent(day: str, time: str, behind: str, clock: Clock) -> dict[str, str]:
    local = f"{_day(day)}T{time}"
    sent = clock.instant(local, _label(behind))
    return {"date": local} if sent is None else {"date": local, "date_unixtime": str(sent)}


@lru_cache(10_000)
def _day(shown: str) -> str:
    return f"{shown[6:]}-{shown[3:5]}-{shown[:2]}"


@lru_cache(1000)
def _label(behind: str) -> str | None:
    """Return the label of a time as an offset, by what is written ``behind`` the time."""
    if not (match := _ZONE.match(behind)):
        return None
    hours, minutes, zone = match.groups()
    return f"{hours}:{minutes or '00'}" if hours else _LABELS[zone]
