"""The directory into which one source file is extracted: safe and distinct names, counted bytes."""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import Iterable
from itertools import count
from pathlib import Path

from flows.errors import BadInput

#: Limits of Linux and macOS for one name, and for a path, with room for the directories above.
_NAME_BYTES = 255
_PATH_BYTES = 2_000
#: The prefix that packers write before the full path of a file on Windows.
_DRIVE = re.compile(r"/*(\?/)?[A-Za-z]:/")


class Entry:
    """The new ``directory`` for the members of one source file; ``bytes`` counts the bytes written."""

    def __init__(self, directory: Path) -> None:
        """Create the directory."""
        self.directory = directory
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._numbers: dict[str, int] = {}
        self.bytes = 0
        directory.mkdir(mode=0o700)

    def __len__(self) -> int:
        """Return the number of files written."""
        return len(self._files)

    def link(self, path: str, source: Path) -> None:
        """Link ``source`` itself at ``path``, so that a large bare JSON file is not copied."""
        target = self.directory / self._distinct(path)
        try:
            target.hardlink_to(source.resolve())
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(source, target)
            target.chmod(0o600)
        self.bytes += target.stat().st_size

    def write(self, path: str, chunks: Iterable[bytes]) -> None:
        """Write ``chunks`` at ``path``, a result of :func:`safe_path`.

        If the chunks raise BadInput, the incomplete file is removed.
        """
        target = self.directory / (name := self._distinct(path))
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for chunk in chunks:
                    self.bytes += len(chunk)
                    file.write(chunk)
        except BadInput:
            target.unlink()
            self._files.discard(_key(name))
            raise

    def _distinct(self, path: str) -> str:
        """Return ``path``, or a path in a numbered folder if another member has this one already."""
        for number in count(self._numbers.get(_key(path), 1)):
            candidate = f"({number})/{path}" if number > 1 else path
            key = _key(candidate)
            folders = {key[: slash.start()] for slash in re.finditer("/", key)}
            if key not in self._files and key not in self._folders and not folders & self._files:
                break
        self._numbers[_key(path)] = number
        self._files.add(key)
        self._folders |= folders
        return candidate


def safe_path(name: str, max_depth: int, below: str = "") -> str | None:
    """Return the relative path to which a member called ``name`` is written; None if the name is not allowed.

    ``below`` is the safe path of the member's archive if that is nested in another archive.

    ``..``, more than ``max_depth`` parts and paths too long for a file system are not allowed. Absolute paths
    become relative ones, as in other tools: their drives and first slashes are dropped. Control characters
    become ``_``; long parts are shortened at their start. A member without a name is given one.
    """
    name = _DRIVE.sub("", name.replace("\\", "/"), count=1) if ":" in name else name.replace("\\", "/")
    parts = [_safe_part(part) for part in name.split("/") if part not in {"", "."}]
    if ".." in parts:
        return None
    parts = parts or ["unnamed"]
    parts = [*below.split("/"), *parts] if below else parts
    if len(parts) > max_depth:
        return None
    path = "/".join(parts)
    return path if len(path.encode()) <= _PATH_BYTES else None


def with_ending(path: str, ending: str) -> str:
    """Return ``path``, a result of :func:`safe_path`, with ``ending`` added to its name."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + _safe_part(name + ending)


def _safe_part(part: str) -> str:
    if part.isprintable() and len(part) <= _NAME_BYTES // 4:  # a character has 4 bytes at most
        return part
    printable = "".join("_" if unicodedata.category(char) in {"Cc", "Cs"} else char for char in part)
    return printable.encode()[-_NAME_BYTES:].decode("utf-8", "ignore")


def _key(path: str) -> str:
    """Return a key that is equal for names that some file systems treat as equal (case, composition)."""
    return unicodedata.normalize("NFC", path).casefold()
