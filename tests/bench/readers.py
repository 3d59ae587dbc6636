"""Alternatives with which users read exports: python readers.py READER FILE-OR-FOLDER [OUTPUT]

Each prints the wall-clock and CPU seconds of its work alone, without its start and its imports.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path


def bare(decode: Callable[[bytes], object]) -> Callable[[Path, Path], None]:
    """Return a reader that only parses; reading the file is not counted."""
    return lambda source, _: report_cost(decode, source.read_bytes())


def read_orjson(source: Path, output: Path) -> None:
    bare(importlib.import_module("orjson").loads)(source, output)


def read_msgspec(source: Path, output: Path) -> None:
    import msgspec

    bare(msgspec.json.decode)(source, output)


def read_typed(source: Path, output: Path) -> None:
    """Parse only the minimum for a table of messages; the decoder skips the rest."""
    import msgspec

    message = msgspec.defstruct(
        "Message",
        [
            ("id", int),
            ("type", str),
            ("date", str | None, None),
            ("date_unixtime", str | None, None),
            ("from_", str | None, msgspec.field(name="from", default=None)),
            ("from_id", str | None, None),
            ("text", str | list[str | dict[str, object]], ""),
            ("text_entities", list[dict[str, object]], msgspec.field(default_factory=list)),
            ("reply_to_message_id", int | None, None),
        ],
    )
    export = msgspec.defstruct("Export", [("messages", list[message])])
    bare(msgspec.json.Decoder(export).decode)(source, output)


def read_pandas(source: Path, output: Path) -> None:
    import pandas as pd
    import pyarrow.parquet  # noqa: F401 - not to be counted

    def work() -> None:
        with source.open(encoding="utf-8") as file:
            frame = pd.json_normalize(json.load(file)["messages"])
        # A column cannot hold a list in one row and text in the next.
        mixed = frame.select_dtypes(["object", "str"]).columns
        frame[mixed] = frame[mixed].astype(str)
        frame.to_parquet(output)

    report_cost(work)


def read_chatpack(source: Path, output: Path) -> None:
    """Use a public converter, written in Rust: sender, time and text only."""
    chatpack = importlib.import_module("chatpack")

    def work() -> None:
        with output.open("w", encoding="utf-8") as file:
            for message in chatpack.TelegramStreamParser(str(source)):
                file.write(f"{message.timestamp},{message.sender},{message.content}\n")

    report_cost(work)


def read_soup(source: Path, output: Path) -> None:
    """Parse HTML as most scripts do: number, time, sender and text only."""
    import pandas as pd
    import pyarrow.parquet  # noqa: F401 - not to be counted

    soup = importlib.import_module("bs4").BeautifulSoup

    def text(node: object) -> str | None:
        return node.get_text().strip() if node else None  # type: ignore[attr-defined]

    def work() -> None:
        rows = []
        for page in sorted(source.glob("messages*.html")):
            for node in soup(page.read_bytes(), "html.parser").select("div.message.default"):
                date = node.select_one(".date")
                rows.append(
                    {
                        "id": node["id"],
                        "date": date and date["title"],
                        "from": text(node.select_one(".from_name")),
                        "text": text(node.select_one(".text")),
                    }
                )
        pd.DataFrame(rows).to_parquet(output)

    report_cost(work)


def report_cost(work: Callable[..., object], *arguments: object) -> None:
    began, cpu = time.perf_counter(), time.process_time()
    kept = work(*arguments)  # freeing the result is not counted
    sys.stdout.write(f"{time.perf_counter() - began} {time.process_time() - cpu}\n")
    sys.stdout.flush()
    del kept


if __name__ == "__main__":
    reader, source, *output = sys.argv[1:]
    globals()[f"read_{reader}"](Path(source), Path(output[0] if output else "/dev/null"))
