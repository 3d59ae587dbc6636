"""Translate a message of an HTML export into the members that the JSON export has."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from selectolax.lexbor import LexborNode

from flows.exports import html_media
from flows.exports.html_actions import action_of
from flows.exports.html_text import (
    attribute,
    classes,
    inner_text,
    joined,
    local_path,
    rich_message,
    text_and_links,
    text_parts,
)
from flows.exports.pages import DAY_BARS
from flows.exports.zones import Clock

_TIME = re.compile(
    r"(\d\d)\.(\d\d)\.(\d{4}) (\d\d):(\d\d):(\d\d)"
    r"(?: (?:(?:UTC)?([+-]\d\d)(?::?(\d\d))?|(UTC|GMT|CET|EET|MSK))(?!\S))?"
)
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


def message(node: LexborNode, above: Above, clock: Clock) -> dict[str, Any] | None:
    """Return the members of a message, which may lack an id; None for a day bar."""
    number = _ID.fullmatch(node.id or "")
    found: dict[str, Any] = {"id": int(number[1]) if number else None}
    # Programs that replace names in pages leave service messages without a body.
    body = next((child for child in node.iter() if "body" in classes(child)), node)
    if "service" in classes(node):
        return None if found["id"] in DAY_BARS else _service(node, body, found)
    found |= {"type": "message", "text": ""}
    return _body(body, found, above, clock)


def _service(node: LexborNode, body: LexborNode, found: dict[str, Any]) -> dict[str, Any]:
    text = joined(text_parts(body))
    if text.startswith(_UNSUPPORTED):
        return found | {"type": "unsupported"}
    found |= {"type": "service", "text": text, **action_of(text, _target(body))}
    for block in node.iter() if body is not node else ():
        names = classes(block)
        if "userpic_wrap" in names:
            found |= _photo(block)
        elif "body" not in names:
            _add(found, block, names)
    return found


def _photo(block: LexborNode) -> dict[str, Any]:
    """Return the photo beside a service message that is about it."""
    link = block.css_first("a")
    return {"photo": local_path(attribute(link, "href"))} if link else {}


def _body(body: LexborNode, found: dict[str, Any], above: Above, clock: Clock) -> dict[str, Any]:
    named = False
    for child in body.iter():
        names = classes(child)
        if "date" in names:
            found |= _date(attribute(child, "title") or inner_text(child), clock)
        elif "from_name" in names:
            above.sender, named = _sender(inner_text(child)), True
        elif "forwarded" in names and "body" in names:
            found |= _forwarded(child, found, above, clock)
        else:
            _add(found, child, names)
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
            above.forward = _origin(child, clock)
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


def _origin(node: LexborNode, clock: Clock) -> dict[str, Any]:
    """Return the origin of a forwarded message and the time at which it was first sent.

    Releases before 3.7.6 (2022-06) wrote the time without a title, in a ``details`` that is not a ``date``.
    """
    stamp = node.css_first("span.details")
    sender = _sender(inner_text(node).removesuffix(stamp.text() or "" if stamp else ""))
    found = {"forwarded_from" if key == "from" else key: value for key, value in sender.items()}
    if stamp and (sent := _date(attribute(stamp, "title") or inner_text(stamp), clock)):
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
    day, month, year, hour, minute, second, hours, minutes, zone = match.groups()
    local = f"{year}-{month}-{day}T{hour}:{minute}:{second}"
    sent = clock.instant(local, f"{hours}:{minutes or '00'}" if hours else _LABELS.get(zone))
    return {"date": local} if sent is None else {"date": local, "date_unixtime": str(sent)}
