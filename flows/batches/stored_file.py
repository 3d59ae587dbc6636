"""Files in the directory of sources: complete on the disk under their SHA-256, or not there at all."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self


class NewFile:
    """A file that is written beside ``stored``, and takes its place when it is complete."""

    def __init__(self, stored: Path) -> None:
        """``stored`` is where the file is to be; its folder is created."""
        self._stored = stored
        self._partial = stored.with_name(f".{stored.name}.partial")
        self.file: FileIO

    def __enter__(self) -> Self:
        """Create the file."""
        self._partial.unlink(missing_ok=True)
        descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self.file = FileIO(descriptor, "r+")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the file unless it was completed."""
        self.file.close()
        self._partial.unlink(missing_ok=True)

    def complete(self) -> None:
        """Put the file in its place; on return it is on the disk."""
        os.fsync(self.file.fileno())
        self._partial.rename(self._stored)
        for folder in (self._stored.parent, self._stored.parent.parent):  # the original may be removed now
            _sync_folder(folder)
        protect(self._stored)


def write_all(file: FileIO, chunk: bytes) -> None:
    """Write all bytes of ``chunk``. Raises OSError, for example if the disk is full."""
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]


def protect(stored: Path) -> None:
    """Let only this user read a stored file."""
    with suppress(PermissionError):  # another user owns the file; the directory protects it
        stored.chmod(0o600)


def is_stored(path: str, size: int) -> bool:
    """Return whether a source file's bytes are in place."""
    try:
        found = Path(path).stat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == size


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
