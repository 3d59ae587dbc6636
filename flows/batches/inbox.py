"""Look at an inbox: which of its files are complete, and which entries stay there and why."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import gethostname
from typing import NamedTuple

from flows.batches.recognition import is_junk, is_unfinished
from flows.batches.source_file import Writers, kind_of, sighting, writers_of
from flows.batches.source_folder import sighting_of, tree_of, writers_in
from flows.domain import MEDIA_FOLDERS
from flows.errors import FolderRefused
from flows.settings import Settings

#: Folders that Telegram Desktop writes beside its pages and that contain no messages.
_BESIDE_PAGES = {"css", "js", "images"}
_OF_EXPORTS = _BESIDE_PAGES | {"chats", "lists"} | MEDIA_FOLDERS
_PAGE = re.compile(r"messages\d*\.html|export_results\.html|result\.json")
_PAGES = (".html", ".htm", ".json")
_ARCHIVES = re.compile(r".*\.(zip|7z|rar|tar|t?gz|t?bz2?|t?xz|t?zst)", re.IGNORECASE | re.DOTALL)
_JUNK = "metadata of Windows or macOS"
#: Seconds after which a file with the name of an unfinished copy is named, if it did not change.
_STALE_SECONDS = 3600
_UNFINISHED = "its name says that it is not downloaded or copied whole: if it is, rename it"
_BEING_WRITTEN = "its name says that it is still being written; it is received under its final name"
_HIDDEN = "hidden, so it is not received: rename it without the dot"
#: Names that this program gives to what it has received or is removing.
_OWN = ".tdp-"
_FOLDER = (
    "a folder, but not one unpacked export (result.json or messages.html, no archives):"
    " zip it and copy the ZIP here, or run `tdp run` on the folder"
)

#: Returns those of these sightings that were seen before; true: received, left, or seen for long enough.
Known = Callable[[list[str]], Awaitable[dict[str, bool]]]


class Seen(NamedTuple):
    """A file, or an unpacked export, at the time of one check; ``mtime_ns`` is when it was last changed."""

    sighting: str
    mtime_ns: int


@dataclass(frozen=True)
class Candidate:
    """A file that may be received. ``is_quiet``: it was the same at two checks far enough apart."""

    path: Path
    sighting: str
    is_quiet: bool


@dataclass
class Look:
    """The complete files, oldest first; the entries that stay, with reasons; files that are being written.

    An unpacked export counts as a file.
    """

    files: list[Candidate] = field(default_factory=list)
    left: dict[Path, str] = field(default_factory=dict)
    busy: list[Path] = field(default_factory=list)


async def _none_known(_: list[str]) -> dict[str, bool]:
    return {}


async def look(inbox: Path, settle_seconds: float, quiet_seconds: float, known: Known = _none_known) -> Look:
    """Look at ``inbox``; hold no lock meanwhile, because this waits.

    If a file changed within the last ``settle_seconds``, all files are checked again after that time. If the
    kernel does not say whether a file is open for writing (it is another user's, or its file system has no
    leases), the file must be the same at a second check ``quiet_seconds`` later, unless it is ``known``: then
    it is complete, or it is still being watched and counts as being written. So must a folder, because its
    next file may be on its way. Hidden files are ignored, and so are names of unfinished files for an hour.
    """
    files, left = await asyncio.to_thread(scan, inbox)
    newest = time.time_ns() - settle_seconds * 1e9
    if any(seen.mtime_ns > newest for seen in files.values()):
        files = await _unchanged(files, inbox, settle_seconds)
    writers = await asyncio.to_thread(lambda: {path: writers_at(path) for path in files})
    unsure = {path: seen.sighting for path, seen in files.items() if writers[path] is Writers.UNKNOWN}
    seen_before = await known(list(unsure.values())) if unsure else {}
    first_seen = {path: files[path] for path, seen in unsure.items() if seen not in seen_before}
    quiet = await _unchanged(first_seen, inbox, quiet_seconds) if first_seen else {}
    busy = {path for path, answer in writers.items() if answer is Writers.SOME} | (first_seen.keys() - quiet)
    busy |= {path for path, seen in unsure.items() if not seen_before.get(seen, True)}
    ready = sorted(files.keys() - busy, key=lambda path: (files[path].mtime_ns, path.name))
    return Look([Candidate(p, files[p].sighting, p in unsure) for p in ready], left, sorted(busy))


def ensure_foreign(folder: Path, settings: Settings) -> None:
    """Raise FolderRefused if ``folder`` is not a folder, or has the files of this installation itself."""
    if settings.owns(folder):
        raise FolderRefused(
            f"{folder} has the files of this installation itself: name another folder, or copy files into the"
            f" inbox, {settings.inbox}"
        )
    if folder != settings.inbox and not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise FolderRefused(f"{folder} {what} on this host, {gethostname()}")


async def look_at_export(folder: Path, settle_seconds: float) -> Look:
    """Look at a folder that is an unpacked export itself: one source file, or busy while it is written to."""
    before = await asyncio.to_thread(_folder, folder)
    await asyncio.sleep(settle_seconds)
    seen = await asyncio.to_thread(_folder, folder)
    if isinstance(seen, str):
        return Look(left={folder: seen})
    if seen != before or await asyncio.to_thread(writers_at, folder) is Writers.SOME:
        return Look(busy=[folder])
    return Look([Candidate(folder, seen.sighting, is_quiet=True)])


async def _unchanged(files: dict[Path, Seen], inbox: Path, seconds: float) -> dict[Path, Seen]:
    """Return those of the files that are the same after some time."""
    await asyncio.sleep(seconds)
    later, _ = await asyncio.to_thread(scan, inbox)
    return {path: seen for path, seen in files.items() if path in later and later[path] == seen}


def scan(inbox: Path) -> tuple[dict[Path, Seen], dict[Path, str]]:
    """Return what may be received, and the other entries with the reasons why they stay."""
    files: dict[Path, Seen] = {}
    left: dict[Path, str] = {}
    folders = []
    with os.scandir(inbox) as found:
        for entry in found:
            path = Path(entry.path)
            with suppress(FileNotFoundError):  # removed since the directory was read
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode) and not is_unfinished(entry.name):
                    folders.append(path)
                elif is_junk(entry.name):
                    left[path] = _JUNK
                elif is_unfinished(entry.name):
                    if not entry.name.startswith(".") and time.time() - status.st_mtime > _STALE_SECONDS:
                        left[path] = _UNFINISHED
                elif stat.S_ISREG(status.st_mode):
                    files[path] = Seen(sighting(path, status), status.st_mtime_ns)
                else:
                    left[path] = kind_of(status.st_mode)
    beside = _BESIDE_PAGES if any(path.suffix.lower() in _PAGES for path in files) else set()
    for path in folders:
        if path.name in beside:
            continue
        with suppress(FileNotFoundError):  # changed since it was listed: the next check finds it
            seen = _folder(path)
            left |= {path: seen} if isinstance(seen, str) else {}
            files |= {path: seen} if isinstance(seen, Seen) else {}
    return files, left


def passed_over(inbox: Path) -> dict[Path, str]:
    """Return the entries that :func:`scan` names nowhere because of their names, with the reason."""
    found: dict[Path, str] = {}
    with os.scandir(inbox) as entries:
        for entry in entries:
            if not is_unfinished(entry.name) or is_junk(entry.name) or entry.name.startswith(_OWN):
                continue
            with suppress(FileNotFoundError):
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if entry.name.startswith("."):
                    found[Path(entry.path)] = _HIDDEN
                elif age <= _STALE_SECONDS:
                    found[Path(entry.path)] = _BEING_WRITTEN
    return found


def _folder(path: Path) -> Seen | str:
    """Return an unpacked export as a file, and of any other folder the reason why it stays."""
    try:
        if not is_one_export(path):
            return _FOLDER
        tree = tree_of(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        return f"a folder that cannot be read: {error.strerror or error}"
    return tree.problem or Seen(sighting_of(path, tree), tree.mtime_ns)


def writers_at(path: Path) -> Writers:
    """Return whether a process has the file, or a file of the folder, open for writing."""
    return writers_in(path) if path.is_dir() and not path.is_symlink() else writers_of(path)


def is_one_export(folder: Path) -> bool:
    """Return whether all of ``folder`` is one export: pages, and no archives, which would be others."""
    names = [entry.name for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
    return any(map(_PAGE.fullmatch, names)) and not any(map(_ARCHIVES.fullmatch, names))


def is_unpacked_export(folder: Path) -> bool:
    """Return whether Telegram Desktop wrote an export into ``folder``: pages, or folders beside one."""
    names = {entry.name: entry.is_dir() for entry in os.scandir(folder)}
    pages = [name for name, is_folder in names.items() if not is_folder and _PAGE.fullmatch(name)]
    has_folders = any(name in _OF_EXPORTS for name, is_folder in names.items() if is_folder)
    return len(pages) > 1 or (bool(pages) and has_folders)
