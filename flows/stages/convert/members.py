"""Find the members of a source file that extract has kept but convert has not read."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from flows.exports.signs import PAGE_HEAD, is_json_export, is_messages_page
from flows.stages.runner.contract import FileOutcome, Result

#: Names that exports and their copies have (``result.json.bak``, ``messages (1).html``, ``result``).
_NAMES = re.compile(r".*\.(json|html?)\b.*|(result|messages).*", re.IGNORECASE)
_PARTS = re.compile(r"messages[^/]*\.html?", re.IGNORECASE)
#: Pages of an account that list other pages and sections; their chats have parts of their own.
_INDEXES = re.compile(r"(.*/)?(export_results|lists/[^/]+)\.html", re.IGNORECASE)
#: Pages that list the chats of an account; a chat without messages has no link.
_LISTS = re.compile(r"(.*/)?lists/(left_)?chats\.html", re.IGNORECASE)
_LINK = re.compile(rb"""href=["']\.\./(chats/[^"'#<>]+/messages\.html)""", re.IGNORECASE)
#: Bytes of a list that are searched, for tens of thousands of chats.
_LIST = 32 << 20
#: Members listed in a reason.
_SHOWN = 3


def not_read(entry: Path, read: Collection[Path], kept: int | None) -> str | None:
    """Return for the operator which members of ``entry`` are not among the files ``read``; None if none.

    Members are all files that look like an export or a part of one. An operator's extract program may leave
    media and other documents beside them. ``kept`` is the number of files that extract says it has written.
    """
    if not entry.is_dir():
        return None
    files = [Path(folder, name) for folder, _, names in os.walk(entry) for name in names]
    problems = []
    if left := sorted(str(path.relative_to(entry)) for path in _members(entry, files) if path not in read):
        problems.append(f"not read: {_shown(left)}")
    if missing := sorted(_linked(entry, files)):
        problems.append(f"missing, although a list of chats names them: {_shown(missing)}")
    if kept and len(files) < kept:
        problems.append(
            f"{kept - len(files)} of the {kept} files that extract kept are missing in its output"
        )
    return "; ".join(problems) or None


def not_written(source: Path, extracted: Result | None) -> list[FileOutcome]:
    """Return outcomes for the source files that extract reports as kept but has not written to ``source``."""
    reason = "extract reports it, but has written nothing for it"
    files = extracted.files if extracted else []
    kept = [file for file in files if file.status != "quarantined"]
    return [
        FileOutcome(file.name, "quarantined", reason) for file in kept if not (source / file.name).exists()
    ]


def _shown(paths: list[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(map(repr, paths[:_SHOWN])) + more


def _linked(entry: Path, files: list[Path]) -> set[str]:
    """Return the first pages of chats to which the lists of chats link, and which are not among the files."""
    paths = [str(path.relative_to(entry)) for path in files]
    lists = [path for path, name in zip(files, paths, strict=True) if _LISTS.fullmatch(name)]
    linked = {link.decode("utf-8", "replace") for path in lists for link in _LINK.findall(_head(path, _LIST))}
    there = {"/".join(name.split("/")[-3:]) for name in paths}
    return linked - there


def _members(entry: Path, files: list[Path]) -> Iterator[Path]:
    for path in files:
        if not _NAMES.fullmatch(path.name) or _INDEXES.fullmatch(str(path.relative_to(entry))):
            continue
        head = b"" if _PARTS.fullmatch(path.name) else _head(path)
        if not head or is_json_export(head) or is_messages_page(head):
            yield path


def _head(path: Path, size: int = PAGE_HEAD) -> bytes:
    with path.open("rb", buffering=0) as file:
        head = file.read(size)
    return head.replace(b"\0", b"")  # in UTF-16, every other byte of these names
