"""A stand-in for Telegram's Bot API server: what a bot that receives documents can see of it.

As the real one, it acknowledges updates only by the offset of a later getUpdates, allows one poller (a second
one ends the first with 409), refuses to hand out files over 20 MB, lets links die, and reports an edit that
changes nothing as an error. With ``local`` it is a server in local mode: paths instead of links, no limit.
Tests script its faults: :meth:`BotApi.fail`, :meth:`BotApi.hold`, :meth:`BotApi.cut`.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

TOKEN = "4242424242:AAstand-in_Token-that-no-log-may-show"  # noqa: S105
BOT_ID = 4242424242
LIMIT = 20 << 20
ANONYMOUS_ADMIN = 1087968824
Json = dict[str, Any]
_CONFLICT = "Conflict: terminated by other getUpdates request; make sure that only one bot is running"
#: The isolates around file names, which Telegram keeps and shows as nothing.
_INVISIBLE = dict.fromkeys((0x2068, 0x2069))
_SELF: Json = {"id": BOT_ID, "is_bot": True, "first_name": "Exports", "username": "exports_bot"}


class Failure(Exception):
    """An answer with ``ok`` false."""

    def __init__(self, status: int, description: str, **parameters: Any) -> None:
        super().__init__(description)
        self.status = status
        self.parameters = parameters


@dataclass(frozen=True)
class Said:
    """One thing that the bot said: a message, an edit, a reaction or a document, when, and its text."""

    at: float
    method: str
    chat: int
    message: int
    text: str


@dataclass
class BotApi:
    """The server's state; its methods are what users, Telegram and the network do."""

    token: str = TOKEN
    local: Path | None = None
    url: str = ""
    requests: list[tuple[str, Json]] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    texts: dict[tuple[int, int], str] = field(default_factory=dict)
    reactions: dict[tuple[int, int], str] = field(default_factory=dict)
    documents: dict[int, bytes] = field(default_factory=dict)
    photos: dict[int, bytes] = field(default_factory=dict)
    delivered: int = 0

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._updates: list[Json] = []
        self._update_ids = count(500_000_001)
        self._message_ids = count(1)
        self._files: dict[str, tuple[str, bytes]] = {}
        self._links: dict[str, str] = {}
        self._faults: defaultdict[str, deque[Failure | float]] = defaultdict(deque)
        self._cuts: deque[int] = deque()
        self._held: dict[str, threading.Event] = {}
        self.polls = 0  # requests for updates that have begun, without those that are held

    # What users do.

    def document(self, user: int, name: str, content: bytes, **more: Any) -> int:
        """Send a document; ``size`` pretends another one. Returns the id of the message."""
        file_id = f"BQAC{len(self._files):06d}"
        self._files[file_id] = name, content
        document = {
            "file_id": file_id,
            "file_unique_id": f"AgAD{len(self._files):06d}",
            "file_name": name,
            "mime_type": "application/zip",
            "file_size": more.pop("size", len(content)),
        }
        return self.message(user, document=document, **more)

    def message(
        self, user: int, *, chat: int = 0, first_name: str = "Anna", edits: int = 0, **content: Any
    ) -> int:
        """Send a message; with ``edits``, replace the one of that id. Commands get Telegram's entity."""
        text = content.get("text", "")
        if text.startswith("/"):
            length = len(text.split()[0])
            content["entities"] = [{"type": "bot_command", "offset": 0, "length": length}]
        message = {
            "message_id": edits or next(self._message_ids),
            "date": int(time.time()),
            "chat": _chat(chat or user, first_name),
            "from": {"id": user, "is_bot": False, "first_name": first_name},
            **content,
        }
        self.update({"edited_message" if edits else "message": message})
        return int(message["message_id"])

    def channel_post(self, chat: int, name: str, content: bytes) -> None:
        """Post a document in a channel: an update of another kind, without a sender."""
        self.document(1, name, content, chat=chat)
        with self._changed:
            post = self._updates[-1].pop("message")
            del post["from"]
            self._updates[-1]["channel_post"] = post | {"chat": {"id": chat, "type": "channel", "title": "C"}}

    def update(self, content: Json) -> int:
        """Add an update of any content; return its id."""
        with self._changed:
            update_id = next(self._update_ids)
            self._updates.append({"update_id": update_id, **content})
            self._changed.notify_all()
        return update_id

    def replay(self, update: Json) -> None:
        """Deliver an update again under a new id."""
        self.update({key: value for key, value in update.items() if key != "update_id"})

    # What Telegram and the network do.

    def restart_ids(self, first: int) -> None:
        """Let the next update have this id, as after a quiet week."""
        self._update_ids = count(first)

    def fail(self, method: str, status: int, description: str, times: int = 1, **parameters: Any) -> None:
        """Answer the next requests with an error, for example 429 and ``retry_after``."""
        self._faults[method.lower()].extend([Failure(status, description, **parameters)] * times)

    def drop(self, method: str, times: int = 1) -> None:
        """Do what the next requests ask for, but close the connection instead of an answer."""
        self._faults[method.lower()].extend([0.0] * times)

    def cut(self, *sizes: int) -> None:
        """End the next downloads after so many bytes."""
        self._cuts.extend(sizes)

    @contextmanager
    def hold(self, what: str) -> Iterator[threading.Event]:
        """Let requests of a method wait; of ``download``, in the middle of the file. Then drop them.

        Yields the event that is set once a request waits.
        """
        reached, go = threading.Event(), threading.Event()
        self._held[what.lower()] = go
        setattr(go, "reached", reached)  # noqa: B010
        try:
            yield reached
        finally:
            del self._held[what.lower()]
            go.set()

    def expire_updates(self) -> None:
        """Forget all updates, as Telegram does with those that no bot has fetched for a day."""
        self._updates = []

    def expire_links(self) -> None:
        """Let all links die."""
        self._links.clear()

    @property
    def pending(self) -> list[Json]:
        """The updates that were not acknowledged."""
        with self._changed:
            return list(self._updates)

    def texts_to(self, chat: int) -> list[str]:
        """Return the messages of a chat as they are now, in their order, without invisible characters."""
        return [text.translate(_INVISIBLE) for (to, _), text in sorted(self.texts.items()) if to == chat]

    # The methods of the Bot API.

    def call(self, method: str, given: Json) -> Any:
        """Return the result of a request. Raises Failure."""
        self.requests.append((method, given))
        name = method.lower()
        self.wait_if_held(name)
        fault = self._faults[name].popleft() if self._faults[name] else None
        if isinstance(fault, Failure):
            raise fault
        handler = getattr(self, f"_{name}", None)
        if handler is None:
            raise Failure(404, "Not Found: method not found")
        result = handler(given)
        if fault is not None:
            raise ConnectionAbortedError
        return result

    def _getme(self, _: Json) -> Json:
        able = ("can_join_groups", "can_read_all_group_messages", "supports_inline_queries")
        return _SELF | dict.fromkeys(able, False)

    def _getupdates(self, given: Json) -> list[Json]:
        deadline = time.monotonic() + int(given.get("timeout", 0))
        with self._changed:
            self.polls += 1
            mine = self.polls
            self._changed.notify_all()
            if offset := int(given.get("offset", 0)):
                self._updates = [update for update in self._updates if update["update_id"] >= offset]
            while not self._updates and (left := deadline - time.monotonic()) > 0 and self.polls == mine:
                self._changed.wait(left)
            if self.polls != mine:
                raise Failure(409, _CONFLICT)
            self.delivered += len(self._updates)
            return self._updates[: int(given.get("limit", 100))]

    def _getfile(self, given: Json) -> Json:
        if given["file_id"] not in self._files:
            raise Failure(400, "Bad Request: wrong file_id or the file is temporarily unavailable")
        _, content = self._files[given["file_id"]]
        if self.local is None and len(content) > LIMIT:
            raise Failure(400, "Bad Request: file is too big")
        path = f"documents/file_{len(self._links)}_{time.monotonic_ns()}"
        if self.local is not None:
            place = self.local / self.token / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            path = str(place)
        self._links[path] = given["file_id"]
        found = {"file_id": given["file_id"], "file_unique_id": given["file_id"].replace("BQAC", "AgAD")}
        return found | {"file_size": len(content), "file_path": path}

    def _sendmessage(self, given: Json) -> Json:
        return self._say("sendMessage", given, next(self._message_ids), given["text"])

    def _editmessagetext(self, given: Json) -> Json:
        key = int(given["chat_id"]), int(given["message_id"])
        if key not in self.texts:
            raise Failure(400, "Bad Request: message to edit not found")
        if self.texts[key] == given["text"]:
            raise Failure(
                400,
                "Bad Request: message is not modified: specified new message content and reply markup are"
                " exactly the same as a current content and reply markup of the message",
            )
        return self._say("editMessageText", given, key[1], given["text"])

    def _senddocument(self, given: Json) -> Json:
        return self._say_file("sendDocument", given, "document", self.documents)

    def _sendphoto(self, given: Json) -> Json:
        said = self._say_file("sendPhoto", given, "photo", self.photos)
        return said | {"photo": [said["photo"] | {"width": 1280, "height": 553}]}

    def _say_file(self, method: str, given: Json, kind: str, kept: dict[int, bytes]) -> Json:
        message, (name, content) = next(self._message_ids), given[kind]
        kept[message] = content
        said = self._say(method, given, message, given.get("caption", name))
        del said["text"]
        return said | {kind: {"file_id": "out", "file_unique_id": "out", "file_name": name}}

    def _setmessagereaction(self, given: Json) -> bool:
        chat, message = int(given["chat_id"]), int(given["message_id"])
        (reaction,) = json.loads(given["reaction"])
        self.reactions[chat, message] = reaction["emoji"]
        self.said.append(Said(time.monotonic(), "setMessageReaction", chat, message, reaction["emoji"]))
        return True

    def _say(self, method: str, given: Json, message: int, text: str) -> Json:
        if len(text.encode("utf-16-le")) > 2 * 4096:
            raise Failure(400, "Bad Request: message is too long")
        chat = int(given["chat_id"])
        self.texts[chat, message] = text
        self.said.append(Said(time.monotonic(), method, chat, message, text))
        sent = {"message_id": message, "date": int(time.time()), "chat": _chat(chat, "Anna"), "text": text}
        return sent | {"from": _SELF}

    def download(self, path: str) -> tuple[bytes, int]:
        """Return a file and the number of its bytes to send. Raises Failure."""
        if self.local is not None or path not in self._links:
            raise Failure(404, "Not Found")
        content = self._files[self._links[path]][1]
        return content, self._cuts.popleft() if self._cuts else len(content)

    def wait_if_held(self, what: str) -> None:
        """Wait while requests of a method, or downloads, are held. Raises ConnectionAbortedError then."""
        if (go := self._held.get(what)) is not None:
            getattr(go, "reached").set()  # noqa: B009
            go.wait()
            raise ConnectionAbortedError


def _chat(chat: int, first_name: str) -> Json:
    if chat > 0:
        return {"id": chat, "type": "private", "first_name": first_name}
    return {"id": chat, "type": "supergroup", "title": "Exports of the team"}
