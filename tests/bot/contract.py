"""Parse requests that our bot has sent with aiogram's types: others' reading of the Bot API.

python tests/bot/contract.py REQUESTS.jsonl

It runs in an environment with aiogram and without this project; `make bot-contract` makes it. A request is
wrong if there is no such method, if the method has no such parameter, or if a value is not of its type.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from aiogram import methods
from aiogram.methods import TelegramMethod
from aiogram.types import BufferedInputFile
from pydantic import ValidationError

#: Methods by name; Telegram does not distinguish capitals.
METHODS = {
    name.lower(): method
    for name, method in vars(methods).items()
    if inspect.isclass(method) and issubclass(method, TelegramMethod)
}


def problem(name: str, given: dict[str, str]) -> str | None:
    """Return what is wrong with a request; None if nothing is."""
    method = METHODS.get(name.lower())
    if method is None:
        return "there is no such method"
    if unknown := given.keys() - method.model_fields.keys():
        return f"it has no parameters {sorted(unknown)}"
    try:
        method.model_validate({key: value(method, key, text) for key, text in given.items()})
    except ValidationError as error:
        return str(error)
    return None


def value(method: type[TelegramMethod[Any]], name: str, text: str) -> Any:
    """Return a parameter as it was before it was encoded for the form: files, JSON, text."""
    if name == "document":
        return BufferedInputFile(b"", filename=text)
    kind = str(method.model_fields[name].annotation)
    return text if "str" in kind and "list" not in kind else json.loads(text)


def main(path: Path) -> int:
    """Check all requests of a file; return the exit status."""
    requests = [json.loads(line) for line in path.read_text().splitlines()]
    found = Counter(
        f"{request['method']} {sorted(request['given'])}: {wrong}"
        for request in requests
        if (wrong := problem(request["method"], request["given"]))
    )
    for wrong, number in found.items():
        sys.stderr.write(f"{number} times {wrong}\n")
    names = Counter(request["method"] for request in requests)
    sys.stdout.write(f"{len(requests)} requests, {found.total()} wrong: {dict(names)}\n")
    return 1 if found or not requests else 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
