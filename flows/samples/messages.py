"""Messages as the newest Telegram Desktop writes them in JSON (for older ones: flows.samples.eras)."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Any

from flows.samples import words
from flows.samples.actions import ACTIONS
from flows.samples.chats import Chat, Peer

Message = dict[str, Any]
LEFT_OUT = [
    "(File not included. Change data exporting settings to download.)",
    "(File exceeds maximum size. Change data exporting settings to download.)",
    "(File unavailable, please try again later)",
]
#: Telegram Desktop adds this to the ids of messages that precede a group's migration to a supergroup.
MIGRATED = -1_000_000_000


def make_messages(rng: Random, chat: Chat, count: int) -> list[Message]:
    """Return ``count`` messages with distinct ids, ordered by time; all kinds of content occur in turn."""
    migrated = count // 4 if chat.type == "private_supergroup" else 0
    number, now = rng.randint(1, 500), rng.randint(1_420_070_400, 1_740_000_000)
    messages: list[Message] = []
    deck: list[str] = []
    for position in range(count):
        if not deck:
            deck = [*CONTENT, *["service"] * 4, *["text"] * len(CONTENT)]
            rng.shuffle(deck)
        if position == migrated:
            number = rng.randint(1, 500)
        number += rng.choice([1, 1, 1, 2, 9])
        now += rng.choice([1, 30, 30, 400, 4000, 90_000])
        message_id = number + MIGRATED if position < migrated else number
        messages.append(_message(rng, chat, deck.pop(), message_id, now, messages))
    return messages


def continued(rng: Random, chat: Chat, messages: list[Message], count: int) -> list[Message]:
    """Return the messages of a later export: some of ``messages`` edited, and ``count`` more at the end."""
    edited = [_edited(chat, message) if index % 3 == 0 else message for index, message in enumerate(messages)]
    number = max([message["id"] for message in messages], default=0)
    now = max([int(message.get("date_unixtime", 0)) for message in messages], default=0)
    more = [_message(rng, chat, "text", number + n, now + 60 * n, messages) for n in range(1, count + 1)]
    return edited + more


def _edited(chat: Chat, message: Message) -> Message:
    if message["type"] != "message":
        return message
    when = int(message["date_unixtime"]) + 200_000
    return (
        message | {"edited": iso(when, chat.offset), "edited_unixtime": str(when)} | _text(["edited since"])
    )


def iso(unix: int, offset: int) -> str:
    """Return a date as in JSON: the exporter's local time without a UTC offset."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(unix + offset))


def _message(rng: Random, chat: Chat, kind: str, number: int, now: int, earlier: list[Message]) -> Message:
    if kind == "unsupported":
        return {"id": number, "type": "unsupported"}
    sender = rng.choice(chat.people)
    head: Message = {
        "id": number,
        "type": "service" if kind == "service" else "message",
        "date": iso(now, chat.offset),
        "date_unixtime": str(now),
    }
    if kind == "service":
        return head | _service(rng, chat, sender, earlier)
    if rng.random() < 0.1:
        edited = now + rng.randint(5, 100_000)
        head |= {"edited": iso(edited, chat.offset), "edited_unixtime": str(edited)}
    head |= {"from": sender.name, "from_id": sender.key}
    if chat.is_channel and rng.random() < 0.2:
        head["author"] = rng.choice(words.FIRST_NAMES)
    head |= _links(rng, chat, now, earlier)
    content = CONTENT[kind](rng, chat, now)
    parts = content.pop("parts", None)
    if parts is None:
        parts = [rng.choice(words.SENTENCES)] if kind == "text" or rng.random() < 0.3 else []
    message = head | content | _text(parts)
    if rng.random() < 0.15:
        message["reactions"] = _reactions(rng, chat, now)
    return message


def _text(parts: list[str | dict[str, Any]]) -> Message:
    """Return ``text`` (a list once something is formatted) and ``text_entities`` (always a list)."""
    plain = all(isinstance(part, str) for part in parts)
    entities = [{"type": "plain", "text": part} if isinstance(part, str) else part for part in parts]
    return {"text": "".join(map(str, parts)) if plain else parts, "text_entities": entities}


def _service(rng: Random, chat: Chat, sender: Peer, earlier: list[Message]) -> Message:
    action = dict(rng.choice(ACTIONS[chat.type if chat.type in ACTIONS else "other"]))
    if action.pop("points_at_message", False) and earlier:
        action["message_id"] = rng.choice(earlier)["id"]
    if action.get("members") == "people":
        action["members"] = [peer.name for peer in chat.people if peer.key.startswith("user")]
    without_actor = action.pop("without_actor", False)
    actor = {} if without_actor else {"actor": sender.name, "actor_id": sender.key}
    return actor | action | {"text": "", "text_entities": []}


def _links(rng: Random, chat: Chat, now: int, earlier: list[Message]) -> Message:
    """Return a message's relation to others: a reply, a forward, a bot as its sender."""
    dice = rng.random()
    if dice < 0.12 and earlier:
        reply: Message = {"reply_to_message_id": rng.choice(earlier)["id"]}
        return reply | ({"reply_to_peer_id": f"channel{chat.id + 500}"} if dice < 0.02 else {})
    if dice < 0.22:
        origin = rng.choice(
            [Peer(f"channel{chat.id + 600}", "Somewhere else"), Peer(f"user{chat.id + 700}", None)]
        )
        forward: Message = {"forwarded_from": origin.name, "forwarded_from_id": origin.key}
        return forward | ({"saved_from": origin.name} if chat.type == "saved_messages" else {})
    return {"via_bot": "@gif"} if dice < 0.25 else {}


def _reactions(rng: Random, chat: Chat, now: int) -> list[Message]:
    recent = [
        {"from": peer.name, "from_id": peer.key, "date": iso(now + 60, chat.offset)}
        for peer in chat.people[:2]
    ]
    return [
        {"type": "emoji", "count": 2, "emoji": rng.choice(words.EMOJI), "recent": recent},
        {"type": "custom_emoji", "count": rng.randint(1, 900), "document_id": LEFT_OUT[0]},
        {"type": "paid", "count": rng.randint(1, 50)},
    ][: rng.randint(1, 3)]


def _file(rng: Random, chat: Chat, folder: str, name: str, key: str = "file") -> Message:
    """Return the size of a media file, and its path or the text for a file that was not exported."""
    if not chat.media_bytes or rng.random() < 0.3:
        return {
            key: rng.choice(LEFT_OUT),
            f"{key}_file_size" if key != "file" else "file_size": rng.randint(900, 9**9),
        }
    stem, _, suffix = name.rpartition(".")
    path = f"{folder}/{stem}_{len(chat.media) + 1}.{suffix}"
    chat.media[path] = chat.media_bytes
    return {key: path, f"{key}_file_size" if key != "file" else "file_size": chat.media_bytes}


def _stamped(
    rng: Random, chat: Chat, now: int, folder: str, stem: str, suffix: str, key: str = "file"
) -> Message:
    day = time.strftime("%d-%m-%Y_%H-%M-%S", time.gmtime(now + chat.offset))
    return _file(rng, chat, folder, f"{stem}@{day}.{suffix}", key)


def _plain(rng: Random, chat: Chat, now: int) -> Message:
    return {}


def _formatted(rng: Random, chat: Chat, now: int) -> Message:
    first, second = rng.sample(words.ENTITIES, 2)
    return {"parts": [rng.choice(words.SENTENCES), first, " ", second, ""]}


def _photo(rng: Random, chat: Chat, now: int) -> Message:
    spoiler = {"media_spoiler": True} if rng.random() < 0.1 else {}
    return (
        _stamped(rng, chat, now, "photos", "photo", "jpg", "photo") | spoiler | {"width": 1280, "height": 853}
    )


def _document(rng: Random, chat: Chat, now: int) -> Message:
    name = rng.choice(words.FILE_NAMES)
    file = _file(rng, chat, "files", name)
    return file | {"file_name": name, "mime_type": "application/octet-stream"}


def _video(rng: Random, chat: Chat, now: int) -> Message:
    thumb = _stamped(rng, chat, now, "video_files", "video", "mp4_thumb.jpg", "thumbnail")
    kind = rng.choice(["video_file", "animation"])
    file = _stamped(rng, chat, now, "video_files", "video", "mp4")
    return (
        file
        | {"file_name": "clip.mp4"}
        | thumb
        | {"media_type": kind, "mime_type": "video/mp4", "duration_seconds": 7}
    )


def _voice(rng: Random, chat: Chat, now: int) -> Message:
    file = _stamped(rng, chat, now, "voice_messages", "audio", "ogg")
    return file | {"media_type": "voice_message", "mime_type": "audio/ogg", "duration_seconds": 4}


def _round(rng: Random, chat: Chat, now: int) -> Message:
    file = _stamped(rng, chat, now, "round_video_messages", "file", "mp4")
    return file | {"media_type": "video_message", "mime_type": "video/mp4", "duration_seconds": 61}


def _audio(rng: Random, chat: Chat, now: int) -> Message:
    file = _file(rng, chat, "files", "Artist – Song.mp3")
    about = {
        "file_name": "Artist – Song.mp3",
        "media_type": "audio_file",
        "performer": "Artist",
        "title": "Song",
    }
    return file | about | {"mime_type": "audio/mpeg", "duration_seconds": 3723}


def _sticker(rng: Random, chat: Chat, now: int) -> Message:
    file = _file(rng, chat, "stickers", "sticker.webp")
    return file | {
        "media_type": "sticker",
        "sticker_emoji": rng.choice(words.EMOJI),
        "width": 512,
        "height": 512,
    }


def _contact(rng: Random, chat: Chat, now: int) -> Message:
    contact = {
        "first_name": rng.choice(words.FIRST_NAMES),
        "last_name": "",
        "phone_number": "+44 20 7946 0000",
    }
    card = _file(rng, chat, "contacts", "contact.vcard", "contact_vcard") if rng.random() < 0.5 else {}
    return {"contact_information": contact} | card


def _location(rng: Random, chat: Chat, now: int) -> Message:
    if rng.random() < 0.2:
        return {"location_information": None}
    point = {"latitude": round(rng.uniform(-90, 90), 6), "longitude": round(rng.uniform(-180, 180), 6)}
    live = {"live_location_period_seconds": 900} if rng.random() < 0.3 else {}
    place = {"place_name": "Café ☕", "address": "12 Main St"} if rng.random() < 0.3 else {}
    return place | {"location_information": point} | live


def _poll(rng: Random, chat: Chat, now: int) -> Message:
    question: Any = rng.choice(["Когда?", ["When ", {"type": "bold", "text": "exactly"}, "?"]])
    answers = [{"text": text, "voters": n, "chosen": n == 2} for n, text in enumerate(["A", "Б", "ג"])]
    return {
        "poll": {"question": question, "closed": rng.random() < 0.5, "total_voters": 3, "answers": answers}
    }


def _todo(rng: Random, chat: Chat, now: int) -> Message:
    items = [{"text": text, "id": n} for n, text in enumerate(["milk", "хлеб"], 1)]
    return {
        "todo_list": {
            "title": "List",
            "others_can_append": True,
            "others_can_complete": False,
            "answers": items,
        }
    }


def _game(rng: Random, chat: Chat, now: int) -> Message:
    return {
        "game_title": "Lumberjack",
        "game_description": "Chop.",
        "game_link": "https://t.me/gamebot?game=Lumberjack",
    }


def _invoice(rng: Random, chat: Chat, now: int) -> Message:
    return {
        "invoice_information": {"title": "Plan", "description": "Monthly", "amount": 999, "currency": "USD"}
    }


def _giveaway(rng: Random, chat: Chat, now: int) -> Message:
    about = {"quantity": 3, "months": 6, "until_date": iso(now + 86_400, chat.offset), "channels": [chat.id]}
    return {"giveaway_information": about | {"countries": ["DE"], "additional_prize": "", "stars": 0}}


def _buttons(rng: Random, chat: Chat, now: int) -> Message:
    link = {"type": "url", "text": "Open", "data": "https://example.org"}
    press = {"type": "callback", "text": "Да", "data": "", "dataBase64": "Y2I", "button_id": 77}
    return {"inline_bot_buttons": [[link, press], [press]], "parts": [rng.choice(words.SENTENCES)]}


def _unknown(rng: Random, chat: Chat, now: int) -> Message:
    """Return a key that no release of Telegram Desktop writes."""
    return {"hologram_information": {"depth": 3, "layers": ["a", {"b": None}]}, "paid_stars_amount": 5}


CONTENT: dict[str, Callable[[Random, Chat, int], Message]] = {
    "text": _plain, "formatted": _formatted, "photo": _photo, "document": _document, "video": _video,
    "voice": _voice, "round": _round, "audio": _audio, "sticker": _sticker, "contact": _contact,
    "location": _location, "poll": _poll, "todo": _todo, "game": _game, "invoice": _invoice,
    "giveaway": _giveaway, "buttons": _buttons, "unknown": _unknown, "unsupported": _plain,
}  # fmt: skip
