"""Read texts of an HTML export and their entities: the reverse of Telegram Desktop's FormatText."""

from __future__ import annotations

import html
import re
from functools import lru_cache
from itertools import islice
from typing import Any

from selectolax.lexbor import LexborNode

Entity = dict[str, str]

_TAGS = {
    "strong": "bold",
    "em": "italic",
    "u": "underline",
    "s": "strikethrough",
    "code": "code",
    "pre": "pre",
    "blockquote": "blockquote",
    "span": "spoiler",
}
_HANDLERS = {
    "ShowHashtag": "hashtag",
    "ShowBotCommand": "bot_command",
    "ShowCashtag": "cashtag",
    "ShowMentionName": "mention_name",
    "ShowNotLoadedEmoji": "custom_emoji",
    "ShowNotAvailableEmoji": "custom_emoji",
}
#: Elements of one block that are searched; a poll with twelve answers has less than a hundred.
_MOST_WITHIN = 1000
#: The same for a rich message: Telegram allows 500 blocks, among them tables.
_MOST_WITHIN_RICH = 20_000
_HANDLER = re.compile(r"Show\w+")
_TAG = re.compile(rb"<[^<>]*+>")
#: A part of a text without nested elements: plain, or a tag with its attributes and its text.
_PART = re.compile(
    rb"""([^<]++)|<(\w++)(?: href ?= ?"([^"]*+)")?+(?: onclick="([^"]*+)")?+>([^<]*+)</\w++>"""
)


def attribute(node: LexborNode, name: str) -> str:
    """Return the value of an attribute, empty if there is none."""
    return node.attrs.get(name) or ""


#: An export has some hundred different values of ``class``, each in thousands of messages.
_split = lru_cache(1000)(str.split)


def classes(node: LexborNode) -> list[str]:
    """Return the names of a node's classes, in a list that nodes share."""
    try:
        return _split(node.attrs.get("class") or "")
    except TypeError:  # a comment
        return []


def first_within(node: LexborNode) -> dict[str, LexborNode]:
    """Return the first element within ``node`` that fits, by selectors such as ``div.title`` and ``.title``.

    For all of them this takes as long as one css_first(), which compiles its selector at each call. A block
    that is not closed holds all later messages, so only its first elements are searched.
    """
    found: dict[str, LexborNode] = {}
    for child in islice(node.traverse(), 1, _MOST_WITHIN):
        for name in classes(child):
            found.setdefault(f".{name}", child)
            found.setdefault(f"{child.tag}.{name}", child)
    return found


def inner_text(node: LexborNode) -> str:
    """Return the text within a block, without the line break and indentation of the file's layout."""
    return without_indent((node.text() or "").removeprefix("\n"))


def unescaped(raw: bytes) -> str:
    """Return the text of HTML without blocks, whatever elements are in it."""
    if b"<" in raw:
        raw = _TAG.sub(b"", raw.replace(b"<br>", b"\n"))
    text = raw.decode()
    return html.unescape(text) if "&" in text else text


def inner_text_of(raw: bytes) -> str:
    """Return what :func:`inner_text` returns of a block with this HTML."""
    return without_indent(unescaped(raw).removeprefix("\n"))


def lines(node: LexborNode) -> str:
    """Return the text within a block that has blocks of its own: the lines that are not empty."""
    return "\n".join(line for part in (node.text() or "").split("\n") if (line := part.strip()))


def rich_message(node: LexborNode) -> dict[str, Any]:
    """Return the text of a rich message (headings, lists, tables, … since 2026), line by line, and its links.

    Layout has lines of its own, so the spaces at the start of a line are those of the text.
    """
    rows = (line.rstrip() for line in (node.text() or "").split("\n"))
    links = _links(node, _MOST_WITHIN_RICH)
    return {"text": "\n".join(filter(None, rows)), **({"rich_message": {"links": links}} if links else {})}


def text_and_links(node: LexborNode) -> dict[str, Any]:
    """Return the text and the links of a block whose class says nothing; empty if it has neither."""
    members = {"text": lines(node), "links": _links(node, _MOST_WITHIN)}
    return {key: value for key, value in members.items() if value}


def _links(node: LexborNode, most: int) -> list[str]:
    nodes = [node, *islice(node.traverse(), 1, most)]
    found = (attribute(one, "href") or attribute(one, "src") for one in nodes if one.tag in ("a", "img"))
    return [local_path(link) for link in dict.fromkeys(found) if link]


def local_path(href: str) -> str:
    """Return a path relative to the export's folder, as in JSON."""
    while href.startswith("../"):
        href = href[3:]
    return href


def text_parts(node: LexborNode) -> list[Entity]:
    """Return the parts of a text block, ``{type, text, …}`` as in JSON's ``text_entities``."""
    parts: list[Entity] = []
    for child in node.iter(include_text=True):
        part = _part(child)
        if parts and parts[-1]["type"] == part["type"] == "plain":
            parts[-1]["text"] += part["text"]
        else:
            parts.append(part)
    return _without_layout(parts)


def parts_of(raw: bytes) -> list[Entity]:
    """Return what :func:`text_parts` returns of a block with this HTML, in which no elements are nested."""
    if b"<" not in raw:
        return [{"type": "plain", "text": text}] if (text := inner_text_of(raw)) else []
    found = _PART.findall(raw.replace(b"<br>", b"\n"))
    return _without_layout([_part_of(*map(unescaped, one)) for one in found])


def _part_of(plain: str, tag: str, href: str, onclick: str, text: str) -> Entity:
    if plain:
        return {"type": "plain", "text": plain}
    if tag == "a":
        return _link(text, {"href": href, "onclick": onclick})
    return {"type": _TAGS[tag], "text": text}


def _without_layout(parts: list[Entity]) -> list[Entity]:
    if parts:
        parts[0]["text"] = parts[0]["text"].removeprefix("\n")
        parts[-1]["text"] = without_indent(parts[-1]["text"])
    return [part for part in parts if part["text"]]


def joined(parts: list[Entity]) -> str:
    """Return the plain text of parts."""
    return "".join(part["text"] for part in parts)


def without_indent(text: str) -> str:
    """Remove the last line break and the spaces behind it, and if the text ends there, one more such."""
    line = text.rstrip(" ")
    if not line.endswith("\n"):
        return text
    if len(line) < len(text):
        return line[:-1]
    above = line[:-1].rstrip(" ")
    return above[:-1] if above.endswith("\n") else line[:-1]


def _part(node: LexborNode) -> Entity:
    tag = node.tag or ""
    if tag == "-text":
        return {"type": "plain", "text": node.text_content or ""}
    text = node.text() or ""
    return _link(text, node.attributes) if tag == "a" else {"type": _TAGS.get(tag, "plain"), "text": text}


def _link(text: str, attributes: dict[str, Any]) -> Entity:
    href = attributes.get("href") or ""
    if handler := _HANDLER.search(attributes.get("onclick") or ""):
        return {"type": _HANDLERS.get(handler[0], "unknown"), "text": text}
    if href.startswith("mailto:"):
        return {"type": "email", "text": text}
    if href.startswith("tel:"):
        return {"type": "phone", "text": text}
    if text.startswith("@") and href.endswith(f"/{text[1:]}"):
        return {"type": "mention", "text": text}
    if href == text:
        return {"type": "link", "text": text}
    if "://" not in href and ("/" in href or href.startswith("(")):  # the file, or why it was not exported
        return {"type": "custom_emoji", "text": text, "document_id": local_path(href)}
    return {"type": "text_link", "text": text, "href": href}
