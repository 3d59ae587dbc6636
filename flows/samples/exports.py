"""Whole exports: the files in Telegram Desktop's export folder, with their counts of chats and messages."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from flows.samples import eras, html
from flows.samples.chats import ACCOUNT_TYPES, NAMELESS, Chat, Numbers, Peer, make_chat, make_person
from flows.samples.messages import Message, continued, make_messages

ABOUT = "Here is the data you requested."


@dataclass(frozen=True)
class SampleSpec:
    """The parameters of one source file. ``page`` is the number of messages per HTML page."""

    seed: int
    index: int
    messages: int
    media_bytes: int
    page: int


@dataclass
class Export:
    """Files by their path in the export's folder, and the chats and messages in them."""

    folder: str
    files: dict[str, bytes] = field(default_factory=dict)
    chats: int = 0
    messages: int = 0


class Maker:
    """Makes the exports of one source file, from random numbers seeded for this file."""

    def __init__(self, spec: SampleSpec) -> None:
        """Seed the random numbers: the same ``spec`` makes the same exports."""
        self.spec = spec
        self.rng = Random(f"{spec.seed}/{spec.index}")  # noqa: S311 - reproducible samples, not secrets
        self.era = eras.ERAS[spec.index % len(eras.ERAS)]
        self.numbers = Numbers(spec.seed, spec.index, long=self.era not in eras.NUMERIC)
        self.account = make_person(self.rng, self.numbers)
        self.day = f"20{self.rng.randint(19, 25)}-{self.rng.randint(1, 12):02d}-{self.rng.randint(1, 28):02d}"

    def chat(self, kind: str, count: int, *, named: bool = False) -> tuple[Chat, list[Message]]:
        """Return a new chat and ``count`` messages of it."""
        chat = make_chat(self.rng, self.numbers, kind, self.account, self.spec.media_bytes, named=named)
        return chat, make_messages(self.rng, chat, count)

    def json(self, kind: str, count: int) -> Export:
        """Return one chat as ``result.json``."""
        chat, messages = self.chat(kind, count)
        export = Export(f"ChatExport_{self.day}", chats=1, messages=count)
        self._put_json(export, chat, messages)
        return self._with_media(export, [(chat, "")])

    def html(self, kind: str, count: int) -> Export:
        """Return one chat as HTML pages."""
        chat, messages = self.chat(kind, count, named=True)
        export = Export(f"ChatExport_{self.day} (1)", chats=1, messages=count)
        self._put_html(export, chat, messages)
        return self._with_media(export, [(chat, "")])

    def both(self, kind: str, count: int) -> Export:
        """Return one chat in both forms in one folder, as the newest releases can write it."""
        chat, messages = self.chat(kind, count, named=True)
        export = Export(f"ChatExport_{self.day}", chats=1, messages=count)
        self._put_html(export, chat, messages)
        export.files["result.json"] = eras.dump("2025", _chat_json(chat, messages))
        return self._with_media(export, [(chat, "")])

    def updated(self, kind: str, count: int) -> Export:
        """Return a later export of the chat of ``both`` as ``result.json``: with edits and more messages."""
        chat, messages = self.chat(kind, count, named=True)
        export = Export(f"ChatExport_{self.day} (2)", chats=1, messages=count + count // 4)
        later = continued(self.rng, chat, messages, count // 4)
        export.files["result.json"] = eras.dump("2025", _chat_json(chat, later))
        return self._with_media(export, [(chat, "")])

    def account_json(self, count: int) -> Export:
        """Return a whole account as ``result.json``: every type of chat, the last among the left chats."""
        export = Export(f"DataExport_{self.day}", chats=len(ACCOUNT_TYPES), messages=count)
        made = [
            self.chat(kind, share)
            for kind, share in zip(ACCOUNT_TYPES, shares(count, len(ACCOUNT_TYPES)), strict=True)
        ]
        chats = [_chat_json(chat, messages) for chat, messages in made]
        account = _account_sections(self.account, self.rng, self.numbers)
        account["chats"] = {"about": ABOUT, "list": chats[:-1]}
        account["left_chats"] = {"about": ABOUT, "list": chats[-1:]}
        export.files["result.json"] = eras.dump("2025", account)
        return self._with_media(export, [(chat, "") for chat, _ in made])

    def account_html(self, count: int) -> Export:
        """Return a whole account as HTML: ``export_results.html`` and a folder per chat."""
        kinds = [kind for kind in ACCOUNT_TYPES if kind not in NAMELESS]
        export = Export(f"DataExport_{self.day}", chats=len(kinds), messages=count)
        made = []
        for number, (kind, share) in enumerate(zip(kinds, shares(count, len(kinds)), strict=True), 1):
            chat, messages = self.chat(kind, share, named=True)
            folder = f"chats/chat_{number:03d}"
            self._put_html(export, chat, messages, folder)
            made.append((chat, share, folder))
        export.files |= {name: text.encode() for name, text in html.account_pages(made).items()}
        return self._with_media(export, [(chat, folder + "/") for chat, _, folder in made])

    def _put_json(self, export: Export, chat: Chat, messages: list[Message]) -> None:
        written = _chat_json(chat, eras.written_in(self.era, messages))
        export.files["result.json"] = eras.dump(self.era, written)

    def _put_html(self, export: Export, chat: Chat, messages: list[Message], folder: str = "") -> None:
        zone = self.spec.index % 4 != 3
        base = "../" * (folder.count("/") + 1) if folder else ""
        for name, text in html.chat_pages(chat, messages, self.spec.page, zone=zone, base=base).items():
            export.files[f"{folder}/{name}" if folder else name] = text.encode()

    def _with_media(self, export: Export, chats: list[tuple[Chat, str]]) -> Export:
        for chat, prefix in chats:
            for path, size in chat.media.items():
                export.files[prefix + path] = self.rng.randbytes(size)
        return export


def shares(total: int, parts: int) -> list[int]:
    """Return ``parts`` nearly equal numbers that add up to ``total``."""
    return [(total * (n + 1)) // parts - (total * n) // parts for n in range(parts)]


def _chat_json(chat: Chat, messages: list[Message]) -> dict[str, Any]:
    head = {} if chat.type in NAMELESS else {"name": chat.name}
    return head | {"type": chat.type, "id": chat.id, "messages": messages}


def _account_sections(account: Peer, rng: Random, numbers: Numbers) -> dict[str, Any]:
    """Return the sections of an account without messages; each of them is optional in a real export."""
    first, _, last = (account.name or "").partition(" ")
    number = int(account.key.removeprefix("user"))
    person = {"user_id": number, "first_name": first, "last_name": last, "phone_number": "+44 20 7946 0001"}
    contact = {
        "user_id": numbers.next(),
        "first_name": "Анна",
        "last_name": "",
        "phone_number": "",
        "date": "2020-01-01T00:00:00",
    }
    sections = {
        "profile_pictures": [{"date": "2020-01-01T00:00:00", "photo": "(Photo not included.)"}],
        "stories": [{"date": "2024-01-01T00:00:00", "media": "stories/story.mp4", "pinned": False}],
        "contacts": {"about": ABOUT, "list": [contact]},
        "frequent_contacts": {
            "about": ABOUT,
            "list": [{"id": 5, "category": "people", "type": "user", "name": None, "rating": 0.5}],
        },
        "sessions": {"about": ABOUT, "list": [{"last_ip": "192.0.2.1", "platform": "Linux"}]},
        "web_sessions": {"about": ABOUT, "list": []},
        "other_data": {"about_meta": ABOUT, "drafts": [{"chat": "Anna", "html": "<b>x</b>"}]},
    }
    kept = {name: section for name, section in sections.items() if rng.random() < 0.8}
    return {"about": ABOUT, "personal_information": person, **kept}
