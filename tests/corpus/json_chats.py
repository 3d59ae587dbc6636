"""Chats in Telegram Desktop's JSON, and a function that reads them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.exports.columns import MESSAGES
from flows.exports.json_export import read_json
from flows.exports.reading import Reading

Read = Callable[[Any], tuple[list[dict[str, Any]], Reading]]

Json = dict[str, Any]

DOCUMENTS = ("entities", "media", "forward", "service", "reactions", "extra")

MESSAGE: Json = {"id": 1, "type": "message", "date": "2023-01-02T03:04:05", "from": "A", "from_id": "user1"}

#: The end of the key of a chat that begins with message 0.
START = "~c983a3b2"


def reader(folder: Path) -> Read:
    """Return a function that reads an export (bytes, text or members) and returns rows and problems."""

    def read(export: Any) -> tuple[list[dict[str, Any]], Reading]:
        if not isinstance(export, str | bytes):
            export = json.dumps(export, ensure_ascii=False, indent=1)
        path = folder / "result.json"
        path.write_bytes(export.encode() if isinstance(export, str) else export)
        reading = Reading("000001-x.zip")
        batches = list(read_json(path, reading))
        assert all(batch.schema == MESSAGES for batch in batches)
        return [row for batch in batches for row in batch.to_pylist()], reading

    return read


def chat(*messages: Json, kind: str | None = "private_supergroup", **members: Any) -> Json:
    return {"name": "Chat", "type": kind, "id": 77, **members, "messages": list(messages)}


def message(**members: Any) -> Json:
    return {**MESSAGE, **members}


def layouts(export: Json) -> list[str]:
    """Return one export in the layouts of Telegram Desktop and other programs."""
    spaced = json.dumps(export, indent=1).replace("[]", "[\n ]")
    return [
        json.dumps(export, indent=1),
        json.dumps(export, indent=4),
        json.dumps(export, indent="\t"),
        json.dumps(export, indent=1).replace("\n", "\r\n"),
        json.dumps(export, separators=(",", ":")),
        json.dumps(export),
        spaced,
        "\ufeff" + json.dumps(export, indent=1),
        json.dumps(export, separators=(",\n", ":\n")),
    ]


def document(text: str | None) -> Any:
    return None if text is None else json.loads(text)
