"""Write messages as Telegram Desktop's HTML: pages of a fixed number of messages, without ids of peers."""

from __future__ import annotations

import time
from dataclasses import dataclass

from flows.samples.chats import Chat
from flows.samples.html_parts import buttons, div, element, escape, media, reactions, rich_text
from flows.samples.messages import Message

#: Messages of one sender within this many seconds are joined: only the first has the sender's name.
_JOINED_SECONDS = 900
_UNSUPPORTED = (
    "This message is not supported by this version of Telegram Desktop. Please update the application."
)


def page_name(index: int) -> str:
    """Return the name of the page with this index, counted from 0: messages.html, messages2.html, …"""
    return f"messages{index + 1 if index else ''}.html"


def chat_pages(
    chat: Chat, messages: list[Message], size: int, *, zone: bool, base: str = ""
) -> dict[str, str]:
    """Return the texts of the pages, of ``size`` messages each (Telegram Desktop: 1,000), by their names.

    ``zone``: dates have a UTC offset, as in newer releases. ``base`` is the path from a page to the root.
    """
    page_of = {message["id"]: index // size for index, message in enumerate(messages)}
    days = iter(range(-1, -len(messages) - 2, -1))
    starts = range(0, len(messages), size)
    result = {}
    for number, start in enumerate(starts):
        page = _Page(chat, page_of, number, zone)
        body = [_pagination(number - 1, "Previous messages")] if number else []
        previous: Message = {}
        for message in messages[start : start + size]:
            if "date" in message and message["date"][:10] != previous.get("date", "")[:10]:
                body.append(_service(next(days), _day(message)))
            body.append(page.message(message, previous))
            previous = message
        if number + 1 < len(starts):
            body.append(_pagination(number + 1, "Next messages"))
        history = div("page_body chat_page", div("history", *body))
        result[page_name(number)] = _document(chat.name or "Deleted Account", history, base)
    return result


def account_pages(chats: list[tuple[Chat, int, str]]) -> dict[str, str]:
    """Return the pages of an account that list ``chats``, each with its number of messages and folder."""
    entries = [
        element(
            "a",
            {"class": "entry block_link clearfix", "href": f"../{folder}/messages.html#allow_back"},
            div(
                "body",
                div("name bold", escape(chat.name or "Deleted Account") + " "),
                div("details_entry details", f"{count} messages"),
            ),
        )
        for chat, count, folder in chats
    ]
    section = element(
        "a",
        {"class": "section block_link chats", "href": "lists/chats.html#allow_back"},
        div("counter details", str(len(chats))),
        div("label bold", "Chats"),
    )
    listing = div("page_body list_page", div("entry_list", *entries))
    return {
        "export_results.html": _document("Exported Data", div("page_body", div("sections", section)), ""),
        "lists/chats.html": _document("Chats", listing, "../"),
    }


@dataclass(frozen=True)
class _Page:
    """Writes the messages of one page; ``page_of`` has the page of each message id, for links."""

    chat: Chat
    page_of: dict[int, int]
    number: int
    zone: bool

    def message(self, message: Message, previous: Message) -> str:
        if message["type"] == "unsupported":
            return _service(message["id"], _UNSUPPORTED)
        if message["type"] == "service" and message.get("action") != "phone_call":
            return _service(message["id"], self._service_text(message))
        joined = _joins(message, previous)
        forwarded = "forwarded_from" in message
        sender = message.get("from", message.get("actor"))
        via = f"via {message['via_bot']}" if "via_bot" in message else ""
        title = self._date(message)
        content = [
            self._reply(message),
            media(message),
            _optional("text", rich_text(message.get("text_entities", []))),
            _optional("signature details", escape(message.get("author", ""))),
            buttons(message),
        ]
        if forwarded:
            when = f'{via}<span class="date details" title="{title}"> {title[:19]}</span>'
            content = [div("forwarded body", _from_name(message["forwarded_from"], when), *content)]
        body = div(
            "body",
            element("div", {"class": "pull_right date details", "title": title}, message["date"][11:16]),
            "" if joined else _from_name(sender, "" if forwarded else via),
            *content,
            reactions(message),
        )
        classes = f"message default clearfix{' joined' if joined else ''}"
        attributes = {"class": classes, "id": f"message{message['id']}"}
        return element("div", attributes, "" if joined else _userpic(sender), body)

    def _date(self, message: Message) -> str:
        date, offset = message["date"], abs(self.chat.offset) // 60
        sign = "-" if self.chat.offset < 0 else "+"
        zone = f" UTC{sign}{offset // 60:02d}:{offset % 60:02d}" if self.zone else ""
        return f"{date[8:10]}.{date[5:7]}.{date[:4]} {date[11:]}{zone}"

    def _link(self, number: int, text: str) -> str:
        page = self.page_of.get(number, self.number)
        if page != self.number:
            return f'<a href="{page_name(page)}#go_to_message{number}">{text}</a>'
        return f'<a href="#go_to_message{number}" onclick="return GoToMessage({number})">{text}</a>'

    def _reply(self, message: Message) -> str:
        if "reply_to_message_id" not in message:
            return ""
        if "reply_to_peer_id" in message:
            return div("reply_to details", "In reply to a message in another chat")
        return div(
            "reply_to details", f"In reply to {self._link(message['reply_to_message_id'], 'this message')}"
        )

    def _service_text(self, message: Message) -> str:
        actor, action = escape(message.get("actor") or "Deleted Account"), message.get("action", "")
        title = f"&laquo;{escape(message.get('title', ''))}&raquo;"
        members = " and ".join(escape(name or "Deleted Account") for name in message.get("members", []))
        in_channel = {
            "create_channel": f"Channel {title} created",
            "edit_group_title": f"Channel title changed to {title}",
            "edit_group_photo": "Channel photo changed",
            "delete_group_photo": "Channel photo removed",
        }
        anywhere = {
            "create_group": f"{actor} created group {title} with members {members}",
            "edit_group_title": f"{actor} changed group title to {title}",
            "edit_group_photo": f"{actor} changed group photo",
            "invite_members": f"{actor} invited {members}",
            "remove_members": f"{actor} removed {members}",
            "join_group_by_link": f"{actor} joined group by link from Deleted Account",
            "clear_history": "History cleared",
        }
        if action == "pin_message" and "message_id" in message:
            return f"{actor} pinned {self._link(message['message_id'], 'this message')}"
        texts = anywhere | in_channel if self.chat.is_channel else anywhere
        return texts.get(action, f"{actor}: {escape(action.replace('_', ' '))}")


def _document(title: str, body: str, base: str) -> str:
    header = div("page_header", div("content", div("text bold", f"{escape(title)} ")))
    return (
        '<!DOCTYPE html>\n<html>\n\n <head>\n\n  <meta charset="utf-8"/>\n<title>Exported Data</title>\n'
        f'  <link href="{base}css/style.css" rel="stylesheet"/>\n\n </head>\n\n'
        ' <body onload="CheckLocation();">\n'
        f"{div('page_wrap', header, body)}\n </body>\n\n</html>\n"
    )


def _pagination(page: int, text: str) -> str:
    return element("a", {"class": "pagination block_link", "href": page_name(page)}, text)


def _service(number: int, text: str) -> str:
    attributes = {"class": "message service", "id": f"message{number}"}
    return element("div", attributes, div("body details", text))


def _day(message: Message) -> str:
    return time.strftime("%d %B %Y", time.strptime(message["date"][:10], "%Y-%m-%d")).lstrip("0")


def _optional(classes: str, text: str) -> str:
    return div(classes, text) if text else ""


def _userpic(name: str | None) -> str:
    return div("pull_left userpic_wrap", div("userpic userpic6", div("initials", escape((name or "D")[0]))))


def _from_name(name: str | None, suffix: str) -> str:
    return div("from_name", f"{escape(name or 'Deleted Account')} {suffix}")


def _joins(message: Message, previous: Message) -> bool:
    """Return whether the page shows ``message`` under the sender of the previous message."""
    if previous.get("type") != "message" or message["type"] != "message":
        return False
    alike = all(message.get(key) == previous.get(key) for key in ("from_id", "via_bot", "forwarded_from_id"))
    seconds = int(message["date_unixtime"]) - int(previous["date_unixtime"])
    limit = 1 if "forwarded_from" in message else _JOINED_SECONDS
    return alike and seconds <= limit and message["date"][:10] == previous["date"][:10]
