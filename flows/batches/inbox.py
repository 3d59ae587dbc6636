"""Look at an inbox: which of its files are complete, and which entries stay there and why."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from flows.batches.source_file import Writers, kind_of, sighting, writers_of

#: Suffixes that copying tools and browsers give to unfinished files.
_UNFINISHED_SUFFIXES = (".part", ".partial", ".tmp", ".crdownload", ".download", ".filepart")
#: Folders that Telegram Desktop writes beside its pages, and that no export is lost with.
_BESIDE_PAGES = {"css", "js", "images"}
_OF_EXPORTS = _BESIDE_PAGES | {
    "chats",
    "lists",
    "photos",
    "files",
    "video_files",
    "voice_messages",
    "stickers",
}
_PAGE = re.compile(r"messages\d*\.html|export_results\.html|result\.json")
_PAGES = (".html", ".htm", ".json")
_FOLDER = "a folder: zip it and copy the ZIP here, or run `tdp run` on the folder"

#: Returns those of these sightings that were seen before; true: received, left, or seen for long enough.
Known = Callable[[list[str]], Awaitable[dict[str, bool]]]


@dataclass(frozen=True)
class Candidate:
    """A file that may be received. ``is_quiet``: it was the same at two looks far enough apart."""

    path: Path
    sighting: str
    is_quiet: bool


@dataclass
class Look:
    """The complete files, oldest first; the entries that stay, with reasons; files that are being written."""

    files: list[Candidate] = field(default_factory=list)
    left: dict[Path, str] = field(default_factory=dict)
    busy: list[Path] = field(default_factory=list)


async def _none_known(_: list[str]) -> dict[str, bool]:
    return {}


async def look(inbox: Path, settle_seconds: float, quiet_seconds: float, known: Known = _none_known) -> Look:
    """Look at ``inbox``; hold no lock meanwhile, because this waits.

    If a file changed within the last ``settle_seconds``, all files are checked again after that time. If the
    kernel does not say whether a file is open for writing (it is another user's, or its file system has no
    leases), the file must be the same at a second look ``quiet_seconds`` later, unless it is ``known``: then
    it is complete, or it is still being watched and counts as being written. Hidden files and names of
    unfinished files are ignored.
    """
    files, left = await asyncio.to_thread(scan, inbox)
    newest = time.time_ns() - settle_seconds * 1e9
    if any(seen.st_mtime_ns > newest for seen in files.values()):
        files = await _unchanged(files, inbox, settle_seconds)
    writers = await asyncio.to_thread(lambda: {path: writers_of(path) for path in files})
    unsure = {
        path: sighting(path, files[path]) for path, answer in writers.items() if answer is Writers.UNKNOWN
    }
    seen_before = await known(list(unsure.values())) if unsure else {}
    first_seen = {path: files[path] for path, seen in unsure.items() if seen not in seen_before}
    quiet = await _unchanged(first_seen, inbox, quiet_seconds) if first_seen else {}
    busy = {path for path, answer in writers.items() if answer is Writers.SOME} | (first_seen.keys() - quiet)
    busy |= {path for path, seen in unsure.items() if not seen_before.get(seen, True)}
    ready = sorted(files.keys() - busy, key=lambda path: (files[path].st_mtime_ns, path.name))
    return Look([Candidate(p, sighting(p, files[p]), p in unsure) for p in ready], left, sorted(busy))


async def _unchanged(
    files: dict[Path, os.stat_result], inbox: Path, seconds: float
) -> dict[Path, os.stat_result]:
    """Return those of the files that are the same after some time."""
    await asyncio.sleep(seconds)
    later, _ = await asyncio.to_thread(scan, inbox)
    return {
        path: seen
        for path, seen in files.items()
        if path in later and sighting(path, later[path]) == sighting(path, seen)
    }


def scan(inbox: Path) -> tuple[dict[Path, os.stat_result], dict[Path, str]]:
    """Return the files that may be received, and the other entries with the reasons why they stay."""
    entries = {}
    with os.scandir(inbox) as found:
        for entry in found:
            with suppress(FileNotFoundError):  # removed since the directory was read
                if not _is_unfinished(entry.name):
                    entries[Path(entry.path)] = entry.stat(follow_symlinks=False)
    files = {path: seen for path, seen in entries.items() if stat.S_ISREG(seen.st_mode)}
    others = {path: kind_of(seen.st_mode) for path, seen in entries.items() if path not in files}
    beside = _BESIDE_PAGES if _has_page(files) else set()
    return files, {
        path: _FOLDER if reason == kind_of(stat.S_IFDIR) else reason
        for path, reason in others.items()
        if path.name not in beside
    }


def is_unpacked_export(folder: Path) -> bool:
    """Return whether ``folder`` is an export as Telegram Desktop wrote it: pages beside their folders."""
    names = {entry.name: entry.is_dir() for entry in os.scandir(folder)}
    has_page = any(_PAGE.fullmatch(name) for name, is_folder in names.items() if not is_folder)
    return has_page and any(name in _OF_EXPORTS for name, is_folder in names.items() if is_folder)


def _has_page(files: Iterable[Path]) -> bool:
    return any(path.suffix.lower() in _PAGES for path in files)


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") or name.lower().endswith(_UNFINISHED_SUFFIXES)
