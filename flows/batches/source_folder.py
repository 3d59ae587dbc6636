"""An unpacked export as one source file: a ZIP of its files, written when it is received.

The same names and contents give the same ZIP: its files are sorted, not compressed, and have no times. So its
SHA-256 is a digest over the folder's files, and once it is stored it is a source file like any other.
Everything here blocks on the disk.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from flows.batches.kept import leave
from flows.batches.source_file import Interrupted, NotARegularFile, Writers, kind_of, writers_of
from flows.batches.stored_file import NewFile, write_all

_CHUNK = 1 << 20
#: The earliest time that a ZIP can state.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


class Tree(NamedTuple):
    """The files of a folder by relative name; ``problem``: what in it is neither a file nor a folder."""

    files: dict[str, os.stat_result]
    problem: str | None

    @property
    def facts(self) -> str:
        """A hash that is equal at two times only if the folder had the same, unchanged files."""
        digest = hashlib.sha256()
        for name, seen in sorted(self.files.items()):
            line = f"{seen.st_ino}:{seen.st_size}:{seen.st_mtime_ns}:{seen.st_ctime_ns}"
            digest.update(os.fsencode(name) + b"\0" + line.encode() + b"\0")
        return digest.hexdigest()

    @property
    def mtime_ns(self) -> int:
        """When the last change was made, as the files say."""
        return max((seen.st_mtime_ns for seen in self.files.values()), default=0)


def tree_of(folder: Path) -> Tree:
    """Return the files below ``folder``, following no links. Raises OSError if a folder cannot be read."""
    files: dict[str, os.stat_result] = {}
    problem = "it has no files"
    # fwalk does not enter what has become a link since it was listed: a user who may write to the inbox must
    # not get files received that only this process can read.
    for parent, folders, names, descriptor in os.fwalk(folder, onerror=_raise):
        below = os.path.relpath(parent, folder)
        for name in (*folders, *names):
            seen = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            path = name if below == "." else f"{below}/{name}"
            if stat.S_ISREG(seen.st_mode):
                files[path] = seen
            elif not stat.S_ISDIR(seen.st_mode):
                problem = f"in it is {kind_of(seen.st_mode)} ({path}): zip the folder"
                return Tree(files, problem)
    return Tree(files, None if files else problem)


def _raise(error: OSError) -> None:
    raise error


def sighting_of(folder: Path, tree: Tree) -> str:
    """Return a hash that is equal at two times only if ``folder`` had the same, unchanged files."""
    return hashlib.sha256(os.fsencode(folder) + b"\0" + tree.facts.encode()).hexdigest()


def writers_in(folder: Path) -> Writers:
    """Return SOME if a file is open for writing, else UNKNOWN, because the next one may be on its way."""
    try:
        is_open = any(writers_of(folder / name) is Writers.SOME for name in tree_of(folder).files)
    except OSError:  # receiving it reports that
        is_open = False
    return Writers.SOME if is_open else Writers.UNKNOWN


class SourceFolder:
    """An unpacked export, to be received like a :class:`~flows.batches.source_file.SourceFile`."""

    has_moved = False

    def __init__(self, path: Path) -> None:
        """Look at ``path``. Raises NotARegularFile if it cannot be received as a whole, or OSError."""
        self.path = path
        self.name = f"{path.name}.zip"
        self.is_cancelled = False
        self.size = 0
        self._tree = tree_of(path)
        if self._tree.problem:
            raise NotARegularFile(self._tree.problem)
        self.sighting = sighting_of(path, self._tree)
        self.writers = writers_in(path)

    def __enter__(self) -> Self:
        """Return this."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is open."""

    def head(self, size: int) -> bytes:
        """Return nothing: the folder was recognised by its pages."""
        return b""[:size]

    def sha256(self) -> str:
        """Return the hash of the ZIP, and set ``size`` to its bytes.

        Raises FileNotFoundError if a file is gone.
        """
        sink = _Sink(self)
        self._pack(sink)
        self.size = sink.size
        return sink.digest.hexdigest()

    def is_unchanged(self) -> bool:
        """Return whether all files are as they were."""
        return self._is_at(self.path)

    def store(self, stored: Path, *, move: bool) -> bool:
        """Write the ZIP to ``stored``, whose name is its SHA-256; False if a file changed meanwhile."""
        stored.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with NewFile(stored) as new:
            sink = _Sink(self, new)
            try:
                self._pack(sink)
            except FileNotFoundError:
                return False
            if sink.digest.hexdigest() != stored.name or not self.is_unchanged():
                return False
            new.complete()
        return True

    def remove(self, *, keeps: bool) -> bool:
        """Remove the folder; with ``keeps`` it is only hidden, see :mod:`flows.batches.kept`.

        Returns False, with the folder as it was, if it changed meanwhile. Raises PermissionError if not all
        of it may be removed.
        """
        folders = {self.path, *((self.path / name).parent for name in self._tree.files)}
        if not all(os.access(folder, os.W_OK, effective_ids=True) for folder in folders):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.path))
        return leave(self.path, self._is_at, keeps=keeps)

    def _is_at(self, path: Path) -> bool:
        """Return whether ``path`` has the same files, unchanged."""
        with suppress(OSError):
            return tree_of(path).facts == self._tree.facts
        return False

    def _pack(self, sink: _Sink) -> None:
        # To a sink that cannot seek, zipfile writes sizes behind the contents: the same bytes each time.
        with zipfile.ZipFile(sink, "w") as archive:
            for name, seen in sorted(self._tree.files.items()):
                info = zipfile.ZipInfo(_decodable(name), _NO_TIME)
                info.file_size = seen.st_size
                info.create_system = 3  # as on every platform
                with archive.open(info, "w") as member:
                    for chunk in self._chunks(name, seen):
                        member.write(chunk)

    def _chunks(self, name: str, seen: os.stat_result) -> Iterator[bytes]:
        """Yield at most as much of a file as it had; nothing if there is another file now."""
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        left = seen.st_size
        with os.fdopen(os.open(self.path / name, flags), "rb", buffering=0) as file:
            is_same = os.path.samestat(os.fstat(file.fileno()), seen)
            while is_same and left > 0 and (chunk := file.read(min(left, _CHUNK))):
                yield chunk
                left -= len(chunk)


class _Sink:
    """A stream that hashes and counts what is written, and writes it to a new stored file if there is one."""

    def __init__(self, folder: SourceFolder, new: NewFile | None = None) -> None:
        self.digest, self.size = hashlib.sha256(), 0
        self._folder, self._new = folder, new

    def write(self, data: bytes, /) -> int:
        if self._folder.is_cancelled:
            raise Interrupted
        self.digest.update(data)
        self.size += len(data)
        if self._new:
            write_all(self._new.file, data)
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def _decodable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
