"""Write the parts of a message in Telegram Desktop's HTML: formatted text, media, buttons, reactions."""

from __future__ import annotations

import html
from typing import Any

from flows.samples.messages import LEFT_OUT, Message

_TAGS = {
    "bold": "strong", "italic": "em", "code": "code", "pre": "pre", "underline": "u", "strikethrough": "s",
    "blockquote": "blockquote",
}  # fmt: skip
_HREFS = {"link": "{}", "email": "mailto:{}", "phone": "tel:{}", "mention": "https://t.me/{}"}
_TITLES = {
    "voice_message": ("media_voice_message", "Voice message"),
    "video_message": ("media_video", "Video message"),
    "video_file": ("media_video", "Video file"),
    "animation": ("media_video", "Animation"),
    "audio_file": ("media_audio_file", "Artist – Song"),
    "sticker": ("media_photo", "Sticker"),
}


def escape(text: str) -> str:
    """Return ``text`` as Telegram Desktop escapes it, line breaks included."""
    return html.escape(text).replace("&#x27;", "&apos;").replace("\n", "<br>")


def element(tag: str, attributes: dict[str, str], *inner: str) -> str:
    """Return a block element with every tag on its own line, as Telegram Desktop writes it."""
    written = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return f"\n<{tag}{written}>\n{''.join(inner)}\n</{tag}>\n"


def div(classes: str, *inner: str) -> str:
    """Return a ``div`` of these classes."""
    return element("div", {"class": classes}, *inner)


def rich_text(entities: list[dict[str, Any]]) -> str:
    """Return the inline elements of ``text_entities``."""
    return "".join(_entity(entity["type"], escape(entity["text"]), entity) for entity in entities)


def media(message: Message) -> str:
    """Return the block of a message's media; empty if it has none."""
    if "poll" in message:
        return _poll(message["poll"])
    described = _described(message)
    if described is None:
        return ""
    classes, title, status, path = described
    link = path and path not in LEFT_OUT
    note = "Not included, change data exporting settings to download." if path in LEFT_OUT else ""
    attributes = {"class": f"media clearfix pull_left {'block_link ' if link else ''}{classes}"}
    body = div(
        "body",
        div("title bold", escape(title)),
        div("description", note) if note else "",
        div("status details", escape(status)),
    )
    if link:
        attributes["href"] = escape(path)
    return div(
        "media_wrap clearfix", element("a" if link else "div", attributes, div("fill pull_left"), body)
    )


def buttons(message: Message) -> str:
    """Return the table of a bot's buttons; empty if there are none."""
    rows = [
        element("tr", {}, element("td", {"class": "bot_button_row"}, *map(_button, row)))
        for row in message.get("inline_bot_buttons", [])
    ]
    return element("table", {"class": "bot_buttons_table"}, *rows) if rows else ""


def reactions(message: Message) -> str:
    """Return the reactions below a message; empty if there are none."""
    shown = [
        element(
            "span",
            {"class": "reaction"},
            element("span", {"class": "emoji"}, reaction.get("emoji", "⭐")),
            element("span", {"class": "count"}, str(reaction["count"])),
        )
        for reaction in message.get("reactions", [])
    ]
    return element("span", {"class": "reactions"}, *shown) if shown else ""


def _entity(kind: str, text: str, entity: dict[str, Any]) -> str:
    if tag := _TAGS.get(kind):
        return f"<{tag}>{text}</{tag}>"
    if kind in _HREFS:
        return f'<a href="{_HREFS[kind].format(text.removeprefix("@"))}">{text}</a>'
    if kind == "text_link":
        return f'<a href="{escape(entity["href"])}">{text}</a>'
    if kind == "custom_emoji":
        return f'<a href = "{escape(entity["document_id"])}">{text}</a>'
    if kind == "spoiler":
        hidden = f'<span aria-hidden="true">{text}</span>'
        return f'<span class="spoiler hidden" onclick="ShowSpoiler(this)">{hidden}</span>'
    if kind in {"hashtag", "cashtag", "bot_command", "mention_name"}:
        return f'<a href="" onclick="return Show(&quot;{text[1:]}&quot;)">{text}</a>'
    return text


def _button(button: dict[str, Any]) -> str:
    return div("bot_button", f"<div>{escape(button['text'])}</div>")


def _poll(poll: dict[str, Any]) -> str:
    question = poll["question"] if isinstance(poll["question"], list) else [poll["question"]]
    asked = "".join(part if isinstance(part, str) else part["text"] for part in question)
    answers = [
        div("answer", f'- {escape(answer["text"])} <span class="details">{answer["voters"]} votes</span>')
        for answer in poll["answers"]
    ]
    return div(
        "media_wrap clearfix",
        div(
            "media_poll",
            div("question bold", escape(asked)),
            div("details", "Final results" if poll["closed"] else "Anonymous poll"),
            *answers,
            div("total details\t", f"{poll['total_voters']} votes"),
        ),
    )


def _described(message: Message) -> tuple[str, str, str, str] | None:
    """Return class, title, status and path (or the text in its place) of a message's media, or None."""
    if message.get("action") == "phone_call":
        seconds = message.get("duration_seconds")
        status = f"Outgoing ({seconds} seconds)" if seconds else "Missed"
        return "media_call", message["actor"] or "", status, ""
    if "photo" in message:
        status = f"{message['width']}×{message['height']}, 12.0 KB"
        return "media_photo", "Photo", status, message["photo"]
    if "media_type" in message:
        seconds = message.get("duration_seconds", 0)
        return *_TITLES[message["media_type"]], f"{seconds // 60:02d}:{seconds % 60:02d}", message["file"]
    if "file" in message:
        return "media_file", message["file_name"], "1.0 KB", message["file"]
    return _described_without_file(message)


def _described_without_file(message: Message) -> tuple[str, str, str, str] | None:
    if "contact_information" in message:
        contact = message["contact_information"]
        card = message.get("contact_vcard", "")
        return "media_contact", contact["first_name"], contact["phone_number"], card
    if "location_information" in message:
        point = message["location_information"]
        status = f"{point['latitude']}, {point['longitude']}" if point else ""
        return "media_location", message.get("place_name", "Location"), status, ""
    if "game_title" in message:
        return "media_game", message["game_title"], message["game_link"], ""
    if "invoice_information" in message:
        return "media_invoice", message["invoice_information"]["title"], "9.99 USD", ""
    return None
