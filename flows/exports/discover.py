"""Find Telegram Desktop's exports in a folder, at any depth and in either form."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from flows.exports.chains import chains
from flows.exports.pages import is_page, read_page
from flows.exports.signs import HEAD, PAGE_HEAD, is_json_export

_PAGES = (".html", ".htm")
_SUFFIXES = (".json", *_PAGES)
_PART = re.compile(r"messages\d*\.html?", re.IGNORECASE)


class Export(NamedTuple):
    """One export: a JSON file, or the parts of one chat in HTML, in order."""

    form: str
    parts: tuple[Path, ...]


def discover(entry: Path) -> list[Export]:
    """Return the exports in ``entry``, a folder or a single file: JSON before HTML, in the order of paths.

    Files of other names count only if they look like an export. A single file always counts, so that reading
    it reports what is wrong with it.
    """
    if entry.is_file():
        return [_single(entry)]
    found: list[Export] = []
    files: list[Path] = []
    for folder, subfolders, names in os.walk(entry):
        subfolders.sort()
        here = Path(folder)
        files += [here / name for name in names]
        found += _in_folder(here, sorted(names))
    if not found and len(files) == 1 and files[0].suffix.lower() in _SUFFIXES:
        return [_single(files[0])]
    return sorted(found, key=lambda export: export.form != "json")


def _in_folder(folder: Path, names: list[str]) -> list[Export]:
    pages = [folder / name for name in names if _is_part(folder / name)]
    grouped = chains(read_page(page) for page in pages)
    found = [Export("html", tuple(page.path for page in chain)) for chain in grouped]
    found.sort(key=lambda export: export.parts[0])
    for name in names:
        path = folder / name
        named = name.lower() == "result.json"
        if path.suffix.lower() == ".json" and (named or is_json_export(_head(path))):
            found.append(Export("json", (path,)))
    return found


def _is_part(path: Path) -> bool:
    """Return whether a file is a part by its name or by its content."""
    return path.suffix.lower() in _PAGES and bool(
        _PART.fullmatch(path.name) or is_page(_head(path, PAGE_HEAD))
    )


def _head(path: Path, size: int = HEAD) -> bytes:
    with path.open("rb", buffering=0) as file:
        return file.read(size)


def _single(path: Path) -> Export:
    form = "html" if path.suffix.lower() in _PAGES or is_page(_head(path)) else "json"
    return Export(form, (path,))
