"""The directory that one source file is extracted into: safe and distinct names, counted bytes."""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import Iterable
from itertools import count
from pathlib import Path

from flows.errors import BadInput

#: What Linux and macOS allow for one name; for a whole path, with room for what leads there.
_NAME_BYTES = 255
_PATH_BYTES = 2_000
_DRIVE = re.compile(r"[A-Za-z]:")


class Entry:
    """The new ``directory`` for the members of one source file; ``bytes`` counts what is written into it."""

    def __init__(self, directory: Path) -> None:
        """Make the directory."""
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
        """Put ``source`` itself at ``path``: a gigabyte of JSON that came bare need not be copied."""
        target = self.directory / self._distinct(path)
        try:
            target.hardlink_to(source.resolve())
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, target)
            target.chmod(0o600)
        self.bytes += target.stat().st_size

    def write(self, path: str, chunks: Iterable[bytes]) -> None:
        """Write ``chunks`` at ``path``, which :func:`safe_path` has made safe.

        Nothing is left of a member whose chunks raise BadInput.
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
        """Return ``path``, or one below a numbered folder if another member has the name already."""
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
    """Return the relative path that a member called ``name`` may be written to; None if there is none.

    ``below`` is the safe path of the archive that it is in, if that is within another.

    Refused are absolute paths, drives, ``..``, more than ``max_depth`` parts, and what is too long for a file
    system. Control characters become ``_``; of a long part its end is kept.
    """
    name = name.replace("\\", "/")
    parts = [_safe_part(part) for part in name.split("/") if part not in {"", "."}]
    if name.startswith("/") or _DRIVE.match(name) or ".." in parts or not parts:
        return None
    parts = [*below.split("/"), *parts] if below else parts
    if len(parts) > max_depth:
        return None
    path = "/".join(parts)
    return path if len(path.encode()) <= _PATH_BYTES else None


def _safe_part(part: str) -> str:
    if part.isprintable() and len(part) <= _NAME_BYTES // 4:  # no character is longer than 4 bytes
        return part
    printable = "".join("_" if unicodedata.category(char) in {"Cc", "Cs"} else char for char in part)
    return printable.encode()[-_NAME_BYTES:].decode("utf-8", "ignore")


def _key(path: str) -> str:
    """Names that differ in case or composition alone are one name on some file systems."""
    return unicodedata.normalize("NFC", path).casefold()
