"""Translate media of an HTML export into the members of the JSON export, as far as HTML shows them."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from selectolax.lexbor import LexborNode

from flows.exports.html_head import Head, reaction
from flows.exports.html_text import (
    attribute,
    classes,
    first_within,
    inner_text,
    inner_text_of,
    joined,
    lines,
    local_path,
    text_and_links,
    text_parts,
    unescaped,
)

#: Telegram Desktop's texts for a file that was not exported, in HTML and in JSON.
_LEFT_OUT = {
    "Not included": "(File not included. Change data exporting settings to download.)",
    "Exceeds": "(File exceeds maximum size. Change data exporting settings to download.)",
    "Unavailable": "(File unavailable, please try again later)",
}
_WRAPS = {
    "photo_wrap": {"key": "photo"},
    "sticker_wrap": {"key": "file", "media_type": "sticker"},
    "animated_wrap": {"key": "file", "media_type": "animation"},
    "video_file_wrap": {"key": "file", "media_type": "video_file"},
}
_TITLES = {"Video file": "video_file", "Animation": "animation", "Video message": "video_message"}
_SIZE = re.compile(r"(\d+)\s*[×x]\s*(\d+)")
_DURATION = re.compile(r"(?:(\d+):)?(\d+):(\d\d)\b")
#: What a button copies when it is pressed, or sends.
_COPIED = re.compile(
    r"ShowTextCopied\('(?:Data: (?P<data>.*?) \| )?(?:Forward text: (?P<forward_text>.*?) \| )?"
    r"Type: (?P<type>\w+)'\);?\s*$",
    re.DOTALL,
)
#: The price of media that have to be paid for.
_STARS = re.compile(r"\u2b50\D*(\d+)")
#: States that only calls of several people have.
_OF_CONFERENCES = ("Invitation", "Ongoing")
_SECONDS = re.compile(r"\((\d+) seconds\)")
#: Whether a poll is closed; other notes are kept.
_POLL_NOTES = ("Anonymous poll", "Final results")
_VOTES = re.compile(r"(\d+) votes?(, chosen vote)?")
_PLACE = re.compile(r"(-?\d+(?:\.\d+)?),\s*(-?\d+(?:\.\d+)?)")
#: The same with the decimal commas of some languages, as releases of 2018 wrote it.
_COMMAS = re.compile(r"(-?\d+),(\d{6}),(\s*-?\d+),(\d{6})(?!\d)")


def media(wrap: LexborNode) -> dict[str, Any]:
    """Return the members of a ``media_wrap`` block; of a phone call, which HTML shows as media, ``call``."""
    for node in wrap.iter():
        names = classes(node)
        if "media_call" in names:
            return {"call": _call(node)}
        if "media_poll" in names:
            return _poll(node)
        if "media_giveaway" in names:
            text = lines(node)
            return {f"giveaway_{'results' if text.startswith('Winner') else 'information'}": {"text": text}}
        if "media" in names:
            return _generic(node, names)
        for name in names:
            if name in _WRAPS:
                return _shown(node, **_WRAPS[name])
    return {"media_type": "unknown", **{f"media_{key}": value for key, value in text_and_links(wrap).items()}}


def reactions(node: LexborNode) -> list[dict[str, Any]]:
    """Return the reactions in a ``reactions`` block: a span, in releases 5.6 to 5.13 a div."""
    return [_reaction(child) for child in node.iter() if "reaction" in classes(child)]


def reactions_of(raw: bytes) -> list[dict[str, Any]]:
    """Return what :func:`reactions` returns of reactions with this HTML: emoji with counts."""
    found = (map(str.strip, map(unescaped, one)) for one in reaction().findall(raw))
    return [
        {"type": "emoji", "count": int(count) if count.isdecimal() else 0, "emoji": emoji}
        for emoji, count in found
    ]


def buttons(table: LexborNode) -> list[list[dict[str, str]]]:
    """Return the rows of a bot's buttons."""
    rows = table.css("td.bot_button_row")
    return [[_button(one) for one in row.css("div.bot_button") or row.css("a")] for row in rows]


def _generic(node: LexborNode, names: list[str]) -> dict[str, Any]:
    kind = next((name.removeprefix("media_") for name in names if name.startswith("media_")), "unknown")
    first = first_within(node)
    title, description, status = (
        _text(first.get(f"div.{name}")) for name in ("title", "description", "status")
    )
    thumb = first.get("img.thumb")
    thumbnail = local_path(attribute(thumb, "src")) if thumb else ""
    return _described(_Shown(kind, title, description, status, attribute(node, "href")), thumbnail)


def media_of(head: Head) -> dict[str, Any]:
    """Return what :func:`media` returns of the media in a head."""
    title, description, status = (inner_text_of(raw) for raw in (head.title, head.description, head.status))
    return _described(_Shown(unescaped(head.kind), title, description, status, unescaped(head.link)))


def _described(shown: _Shown, thumbnail: str = "") -> dict[str, Any]:
    if (found := _without_file(shown)) is not None:
        return found
    found = _with_file(shown)
    if shown.title.startswith("Self-destructing"):
        found["self_destructing"] = shown.title
    return _filled(**found, thumbnail=thumbnail, status=shown.status)


class _Shown(NamedTuple):
    """The texts of one block of media; ``kind`` is its class without ``media_``."""

    kind: str
    title: str
    description: str
    status: str
    link: str

    @property
    def path(self) -> str:
        """The path of the file, or JSON's text for a file that was not exported."""
        for words, text in _LEFT_OUT.items() if self.description else ():
            if self.description.startswith(words):
                return text
        return local_path(self.link)

    @property
    def location(self) -> dict[str, float] | None:
        status, link = (_COMMAS.sub(r"\1.\2,\3.\4", text) for text in (self.status, self.link))
        place = _PLACE.search(status) or _PLACE.search(link)
        return {"latitude": float(place[1]), "longitude": float(place[2])} if place else None


def _without_file(shown: _Shown) -> dict[str, Any] | None:
    kind, title, description, status, link = shown
    match kind:
        case "contact":
            contact = {"name": title, "phone_number": status.partition(" - vCard")[0]}
            return {"contact_information": contact, **_filled(contact_vcard=shown.path)}
        case "location" | "live_location":
            live = {"live_location": True} if "live" in kind else {}
            unread = {} if shown.location else _filled(status=status)
            return {"location_information": shown.location, **live, **unread}
        case "venue":
            return {"place_name": title, "address": description, "location_information": shown.location}
        case "game":
            return _filled(game_title=title, game_description=description, game_link=link)
        case "invoice":
            if (stars := _STARS.fullmatch(status)) and not title:
                return {"paid_stars_amount": int(stars[1])}
            return {"invoice_information": _filled(title=title, description=description, status=status)}
    return None


def _call(node: LexborNode) -> dict[str, Any]:
    first = first_within(node)
    peer, status = (_text(first.get(f"div.{name}")) for name in ("title", "status"))
    action = "conference_call" if status.startswith(_OF_CONFERENCES) else "phone_call"
    found: dict[str, Any] = {"action": action, "status": status, **_filled(peer_name=peer)}
    if seconds := _SECONDS.search(status):
        found["duration_seconds"] = int(seconds[1])
    return found


def _with_file(shown: _Shown) -> dict[str, Any]:
    kind, title, description, status, _ = shown
    path = shown.path
    match kind:
        case "photo" if title == "Sticker":
            return {"file": path, "media_type": "sticker", "sticker_emoji": status.partition(",")[0]}
        case "photo":
            return {"photo": path, **_dimensions(status)}
        case "video":
            return {"file": path, "media_type": _TITLES.get(title, "video_file"), **_duration(status)}
        case "voice_message":
            return {"file": path, "media_type": "voice_message", **_duration(status)}
        case "audio_file":
            return {"file": path, "media_type": "audio_file", **_song(title), **_duration(status)}
        case "file":
            return {"file": path, "file_name": "" if title == "File" else title}
    return {"file": path, "media_type": kind, "title": title, "description": description}


def _shown(node: LexborNode, key: str, media_type: str = "") -> dict[str, Any]:
    image, length = node.css_first("img"), node.css_first("div.video_duration")
    thumb = local_path(attribute(image, "src")) if image and media_type in ("animation", "video_file") else ""
    return {
        **_filled(**{key: local_path(attribute(node, "href"))}, media_type=media_type, thumbnail=thumb),
        **(_duration(inner_text(length)) if length else {}),
    }


def _poll(node: LexborNode) -> dict[str, Any]:
    first = first_within(node)
    question, note = _text(first.get("div.question")), _text(first.get("div.details"))
    answers = [_answer(answer) for answer in node.css("div.answer")]
    if note == "To-do List":
        tasks = [{key: one[key] for key in ("text", "details") if key in one} for one in answers]
        return {"todo_list": {"title": question, "answers": tasks}}
    total = _VOTES.search(_text(first.get("div.total")))
    return {
        "poll": {
            "question": question,
            "closed": note == "Final results",
            "total_voters": int(total[1]) if total else 0,
            "answers": answers,
            **({} if note in _POLL_NOTES else _filled(note=note)),
        }
    }


def _answer(node: LexborNode) -> dict[str, Any]:
    details = node.css_first("span.details")
    noted = (details.text() or "" if details else "").strip()
    votes = _VOTES.fullmatch(noted)
    text = inner_text(node).removesuffix(details.text() or "" if details else "")
    return {
        "text": text.removeprefix("- ").removesuffix(" "),
        "voters": int(votes[1]) if votes else 0,
        "chosen": bool(votes and votes[2]),
        **({} if votes else _filled(details=noted)),
    }


def _reaction(node: LexborNode) -> dict[str, Any]:
    first = first_within(node)
    emoji, count = first.get(".emoji"), first.get(".count")
    link = emoji.css_first("a") if emoji else None
    recent = (
        [{"from": attribute(one, "title")} for one in node.css("div.initials")]
        if "div.initials" in first
        else []
    )
    shown = (count.text() or "").strip() if count else ""
    found: dict[str, Any] = {"type": "emoji", "count": int(shown) if shown.isdecimal() else len(recent)}
    if "paid" in classes(node):
        found["type"] = "paid"
    elif link:
        found |= {"type": "custom_emoji", "document_id": local_path(attribute(link, "href"))}
    elif emoji:
        found["emoji"] = (emoji.text() or "").strip()
    return found | ({"recent": recent} if recent else {})


def _button(node: LexborNode) -> dict[str, str]:
    link = (node if node.tag == "a" else node.css_first("a")) or node
    copied = attribute(link, "onclick")
    shown = _COPIED.search(copied)
    found = {"type": "url", "data": attribute(link, "href") or copied}
    if shown:  # quotes are escaped as in a string of JavaScript
        found = {key: re.sub(r"\\(['\\])", r"\1", value or "") for key, value in shown.groupdict().items()}
    return {"type": found.pop("type"), "text": (link.text() or "").strip(), **_filled(**found)}


def _text(node: LexborNode | None) -> str:
    return joined(text_parts(node)) if node else ""


def _dimensions(status: str) -> dict[str, int]:
    size = _SIZE.search(status)
    return {"width": int(size[1]), "height": int(size[2])} if size else {}


def _duration(status: str) -> dict[str, int]:
    length = _DURATION.search(status)
    if not length:
        return {}
    hours, minutes, seconds = (int(part or 0) for part in length.groups())
    return {"duration_seconds": hours * 3600 + minutes * 60 + seconds}


def _song(title: str) -> dict[str, str]:
    performer, dash, song = title.partition(" – ")
    return {"performer": performer, "title": song} if dash else {"file_name": title}


def _filled(**members: Any) -> dict[str, Any]:
    return {key: value for key, value in members.items() if value}
