"""Find Telegram Desktop's exports in a folder, at any depth and in either form."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

#: Bytes at the start of a file that are searched for signs of an export.
_HEAD = 1 << 16
_SUFFIXES = (".json", ".html", ".htm")
_PART = re.compile(r"messages(\d*)\.html", re.IGNORECASE)
_JSON_HEAD = re.compile(rb'"(?:messages|chats|left_chats|personal_information|contacts)"\s*:')
_HTML_HEAD = re.compile(rb"""class=["']?(?:page_body chat_page|history|message )""")


class Export(NamedTuple):
    """One export: a JSON file, or the parts of one chat in HTML, in order."""

    form: str
    parts: tuple[Path, ...]


def discover(entry: Path) -> list[Export]:
    """Return the exports in ``entry``, a folder or a single file, in the order of their paths.

    A folder that holds an export in both forms counts once, as JSON. Files of other names count only if they
    look like an export. A single file always counts, so that reading it reports what is wrong with it.
    """
    if entry.is_file():
        return [_single(entry)]
    found: list[Export] = []
    files: list[Path] = []
    with_json: list[Path] = []  # folders whose HTML repeats their JSON
    for folder, subfolders, names in os.walk(entry):
        subfolders.sort()
        here = Path(folder)
        files += [here / name for name in names]
        exports = _in_folder(here, sorted(names))
        if any(export.form == "json" for export in exports):
            with_json.append(here)
        if any(here == other or other / "chats" in here.parents for other in with_json):
            exports = [export for export in exports if export.form == "json"]
        found += exports
    if not found and len(files) == 1 and files[0].suffix.lower() in _SUFFIXES:
        return [_single(files[0])]
    return found


def part_number(path: Path) -> int:
    """Return the number of a part: 1 for ``messages.html``, 12 for ``messages12.html``."""
    match = _PART.fullmatch(path.name)
    return int(match[1]) if match and match[1] else 1


def _in_folder(folder: Path, names: list[str]) -> list[Export]:
    found: list[Export] = []
    parts = [folder / name for name in names if _PART.fullmatch(name)]
    if parts:
        found.append(Export("html", tuple(sorted(parts, key=part_number))))
    for name in names:
        path = folder / name
        suffix = path.suffix.lower()
        if suffix == ".json" and (name.lower() == "result.json" or _looks(path, _JSON_HEAD)):
            found.append(Export("json", (path,)))
        elif suffix in _SUFFIXES[1:] and not _PART.fullmatch(name) and _looks(path, _HTML_HEAD):
            found.append(Export("html", (path,)))
    return found


def _looks(path: Path, pattern: re.Pattern[bytes]) -> bool:
    with path.open("rb", buffering=0) as file:
        return bool(pattern.search(file.read(_HEAD)))


def _single(path: Path) -> Export:
    form = "html" if path.suffix.lower() in _SUFFIXES[1:] or _looks(path, _HTML_HEAD) else "json"
    return Export(form, (path,))
