"""Signs of Telegram Desktop's exports, by which extract and convert recognise the same files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

#: Bytes at the start of a file in which the signs of an export are.
HEAD = 64 * 1024
#: The same for HTML: browsers' extensions save a page with its styles and pictures within its head.
PAGE_HEAD = 1 << 20
#: One of these members begins every export in JSON; settings, translations and the like rarely have one.
_JSON = re.compile(
    rb'"messages"\s*+:\s*+\[|"(?:left_)?chats"\s*+:\s*+[\[{]|"personal_information"\s*+:\s*+\{'
    rb'|\A[^\w{]*+\{\s*+"about"\s*+:\s*+"'
)
#: Keys of messages that no other program writes.
_MESSAGES = re.compile(rb'"(?:date_unixtime|text_entities)"\s*:')
_TYPE = re.compile(rb'"(?:message|service|unsupported)"')
_HTML = re.compile(rb"""class=["']?(?:page_body chat_page|history["' >]|message (?:default|service))""")
_PART = re.compile(r"(?:.*/)?messages\d*\.html?", re.IGNORECASE)
_LIST = re.compile(r"(?:.*/)?(?:export_results\.html|lists/(?:left_)?chats\.html)", re.IGNORECASE)
#: Signs of other programs that write pages called messages.html.
_FOREIGN = {
    "Element (Matrix)": re.compile(rb"""id=["']?matrixchat|class=["']?mx_"""),
    "DiscordChatExporter": re.compile(rb"""class=["']?chatlog\b|chatlog__message"""),
}


def is_json_export(head: bytes) -> bool:
    """Return whether a JSON file that begins with ``head`` is an export, of one chat or of an account."""
    return bool(_JSON.search(head, 0, HEAD))


def has_json_messages(head: bytes) -> bool:
    """Return whether JSON that begins with ``head`` has messages as in an export."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[") and bool(_MESSAGES.search(head, 0, HEAD))


def are_messages(found: Iterable[Mapping[str, bytes]]) -> bool:
    """Return whether one of these objects, by its raw members, is a message of Telegram.

    Programs that export other messengers write lists of ``messages``, too.
    """
    return any("date" in one or "date_unixtime" in one or _TYPE.match(one.get("type", b"")) for one in found)


def is_page(path: str, head: bytes) -> bool:
    """Return whether an HTML file at ``path`` belongs to an export: a part of a chat, or a list of chats.

    Pages with the usual names count whatever they contain; a part under another name is known by its content.
    """
    return bool(_PART.fullmatch(path) or _LIST.fullmatch(path) or is_messages_page(head))


def is_messages_page(head: bytes) -> bool:
    """Return whether a file that begins with ``head``, in UTF-8, is a page of messages.

    Its first PAGE_HEAD bytes decide; the first HEAD bytes are enough for the pages of Telegram Desktop.
    """
    return bool(_HTML.search(head, 0, PAGE_HEAD))


def not_telegram(piece: bytes) -> str:
    """Return for the operator why a page without a chat is not an export."""
    for program, signs in _FOREIGN.items():
        if signs.search(piece):
            return f"not a Telegram export: its page was written by {program}"
    return "no chat in its HTML: not a Telegram export; export again from Telegram Desktop"
