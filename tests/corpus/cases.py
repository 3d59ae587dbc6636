"""A case of the corpus: one source file and its expected outcome."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

STORED, PARTLY, QUARANTINED = "stored", "partly", "quarantined"


class Chat:
    """A channel for one case, with the messages 1 and 2; ``json`` and ``html`` are its exports."""

    def __init__(self, number: int) -> None:
        self.id = 1_000 + number
        self.name = f"Chat {number}"

    def time(self, number: int) -> datetime:
        """Return when a message was sent: every chat differs, so that store does not join them."""
        return datetime(2024, 5, 1, tzinfo=UTC) + timedelta(minutes=self.id, seconds=number)

    def message(self, number: int, **members: Any) -> dict[str, Any]:
        time = self.time(number)
        date = {"date": f"{time:%Y-%m-%dT%H:%M:%S}", "date_unixtime": f"{time.timestamp():.0f}"}
        core = {
            "id": number,
            "type": "message",
            **date,
            "from": "Anna",
            "from_id": "user7",
            "text": f"{number}",
        }
        return core | members

    def object(self, *messages: Any, **members: Any) -> dict[str, Any]:
        head = {"name": self.name, "type": "public_channel", "id": self.id}
        return head | members | {"messages": list(messages)}

    def dump(self, *messages: Any, **members: Any) -> bytes:
        """Return the export of these messages in Telegram Desktop's layout."""
        return json.dumps(self.object(*messages, **members), indent=1, ensure_ascii=False).encode()

    @property
    def json(self) -> bytes:
        return self.dump(self.message(1), self.message(2))

    def part(self, *numbers: int, following: str = "") -> bytes:
        """Return a part of the chat in HTML; ``following`` is the part to which its last link leads."""
        messages = "\n".join(
            f'<div class="message default clearfix" id="message{number}"><div class="body">'
            f'<div class="pull_right date details" title="{self.time(number):%d.%m.%Y %H:%M:%S} UTC+00:00">'
            "</div>"
            f'<div class="from_name">Anna </div><div class="text">{number}</div></div></div>'
            for number in numbers
        )
        link = f'<a class="pagination block_link" href="{following}">Next messages</a>' if following else ""
        head = f'<div class="page_header"><div class="text bold">{self.name}</div></div>'
        body = f'<div class="page_body chat_page"><div class="history">{messages}{link}</div></div>'
        return (
            f"<!DOCTYPE html>\n<html><body><div class=page_wrap>{head}{body}</div></body></html>\n".encode()
        )

    @property
    def html(self) -> bytes:
        return self.part(1, 2)


@dataclass(frozen=True)
class Case:
    """``make`` returns the file's content. The outcome's reason must contain ``reason``.

    ``rows`` is the number of rows stored, ``read`` the number of messages that convert counts if it differs.
    """

    name: str
    make: Callable[[Chat], bytes]
    outcome: str = STORED
    reason: str = ""
    rows: int = 2
    read: int | None = None


def stored(name: str, make: Callable[[Chat], bytes], rows: int = 2, read: int | None = None) -> Case:
    return Case(name, make, rows=rows, read=read)


def partly(name: str, make: Callable[[Chat], bytes], reason: str, rows: int = 2) -> Case:
    return Case(name, make, PARTLY, reason, rows)


def quarantined(name: str, make: Callable[[Chat], bytes], reason: str) -> Case:
    return Case(name, make, QUARANTINED, reason, 0)
