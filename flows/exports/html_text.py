"""Read texts of an HTML export and their entities: the reverse of Telegram Desktop's FormatText."""

from __future__ import annotations

import re
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
_HANDLER = re.compile(r"Show\w+")
_INDENT = re.compile(r"\n *$")


def attribute(node: LexborNode, name: str) -> str:
    """Return the value of an attribute, empty if there is none."""
    return node.attributes.get(name) or ""


def inner_text(node: LexborNode) -> str:
    """Return the text within a block, without the line break and indentation of the file's layout."""
    return _INDENT.sub("", (node.text() or "").removeprefix("\n"))


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
    if parts:
        parts[0]["text"] = parts[0]["text"].removeprefix("\n")
        parts[-1]["text"] = _INDENT.sub("", parts[-1]["text"])
    return [part for part in parts if part["text"]]


def joined(parts: list[Entity]) -> str:
    """Return the plain text of parts."""
    return "".join(part["text"] for part in parts)


def _part(node: LexborNode) -> Entity:
    text = (node.text_content if node.is_text_node else node.text()) or ""
    if node.tag == "a":
        return _link(text, node.attributes)
    return {"type": _TAGS.get(node.tag or "", "plain"), "text": text}


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
