"""Bytes of source files: opened without blocking, hashed, and put into the directory of sources.

Everything here blocks on the disk: the flows call it in threads.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import stat
import sys
from collections.abc import Iterator
from enum import Enum
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from flows.batches import stored_file
from flows.batches.kept import leave, withdraw

_CHUNK = 1 << 20
#: ioctl_ficlone(2): let a new file share the blocks of another one, copy on write.
_FICLONE = 0x40049409
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link: copy the file itself",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Writers(Enum):
    """Whether a process has a file open for writing; UNKNOWN if the kernel does not answer this process."""

    NONE = 0
    SOME = 1
    UNKNOWN = 2


class NotARegularFile(Exception):
    """The path names something else by now; the message says what."""


class Interrupted(Exception):
    """Another thread has set :attr:`SourceFile.is_cancelled`."""


def kind_of(mode: int) -> str:
    """Return what a file of this ``st_mode`` is, if it is not a regular file."""
    return _KINDS.get(stat.S_IFMT(mode), "no regular file")


def sighting(path: Path, seen: os.stat_result) -> str:
    """Return a hash that is equal at two times only if ``path`` was the same, unchanged file.

    No program can set the time of the last change of an inode (ctime), and each write sets it.
    """
    facts = f"{seen.st_ino}:{seen.st_size}:{seen.st_mtime_ns}:{seen.st_ctime_ns}"
    return hashlib.sha256(os.fsencode(path) + b"\0" + facts.encode()).hexdigest()


class SourceFile:
    """A regular file, open for reading. On Linux it has a lease if no process has it open for writing.

    While the file has the lease, a process that opens it for writing waits (up to 45 s, lease-break-time).
    """

    def __init__(self, path: Path) -> None:
        """Open ``path``, not following a link and never waiting. Raises NotARegularFile or OSError."""
        self.path = path
        self.is_cancelled = False
        self.has_moved = False
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(path, flags)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENXIO, errno.EMLINK}:  # a link, a socket
                raise NotARegularFile(kind_of(os.lstat(path).st_mode)) from None
            raise
        self.seen = os.fstat(fd)
        if not stat.S_ISREG(self.seen.st_mode):
            os.close(fd)
            raise NotARegularFile(kind_of(self.seen.st_mode))
        self.file = os.fdopen(fd, "rb", buffering=0)
        self.sighting = sighting(path, self.seen)
        self.writers = _acquire_lease(fd)

    def __enter__(self) -> Self:
        """Return this."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file, which releases the lease."""
        self.file.close()

    @property
    def name(self) -> str:
        """The name under which it is recorded."""
        return self.path.name

    @property
    def size(self) -> int:
        """Its bytes when it was opened."""
        return self.seen.st_size

    def head(self, size: int) -> bytes:
        """Return the first bytes."""
        self.file.seek(0)
        return self.file.read(size)

    def sha256(self) -> str:
        """Return the hash of the whole content."""
        digest = hashlib.sha256()
        for chunk in self._chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def is_unchanged(self) -> bool:
        """Return whether no process has written to the file, or opened it for writing, meanwhile."""
        now = os.fstat(self.file.fileno())
        same = (now.st_size, now.st_mtime_ns) == (self.seen.st_size, self.seen.st_mtime_ns)
        return same and (self.writers is not Writers.NONE or self._has_lease())

    def store(self, stored: Path, *, move: bool) -> bool:
        """Put the content at ``stored``, whose name is its SHA-256; on return it is on the disk.

        With ``move`` the file itself is renamed if that is safe: no process has it open for writing, and it
        has no other name. Otherwise it is copied, as a reflink where the file system has them, and stays
        where it is. It is never hard-linked: its owner could change the stored file together with it. Returns
        False, with nothing stored, if the file changed meanwhile. Raises OSError, for example if the disk is
        full.
        """
        stored.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if move and self.writers is Writers.NONE and self.seen.st_nlink == 1:
            os.fsync(self.file.fileno())
            try:
                moved = withdraw(self.path, stored, self._is_at)
            except FileNotFoundError:
                return False
            except OSError:  # another file system, or a folder or file that may not be changed
                return self._copy(stored)
            if moved:
                # The folders need no sync: should the rename not survive a power failure, the file is in its
                # folder again, and is stored again.
                self.has_moved = True
                stored_file.protect(stored)
            return moved
        return self._copy(stored)

    def remove(self, *, keeps: bool) -> bool:
        """Remove the file from its folder. Returns False, with the path as it was, if it changed meanwhile.

        With ``keeps`` it is only hidden there if it may be open for writing (:mod:`flows.batches.kept`).
        Raises OSError if the file may not be removed.
        """
        try:
            return leave(self.path, self._is_at, keeps=keeps and self.writers is Writers.UNKNOWN)
        except FileNotFoundError:
            return True  # by its owner

    def _is_at(self, path: Path) -> bool:
        """Return whether ``path`` is this file, and not being changed."""
        return os.path.samestat(path.lstat(), self.seen) and self.is_unchanged()

    def _copy(self, stored: Path) -> bool:
        digest = hashlib.sha256()
        with stored_file.NewFile(stored) as new:
            cloned = _clone(self.file.fileno(), new.file.fileno())
            for chunk in _read(new.file) if cloned else self._chunks():
                digest.update(chunk)
                if not cloned:
                    stored_file.write_all(new.file, chunk)
            if digest.hexdigest() != stored.name or not self.is_unchanged():
                return False
            new.complete()
        return True

    def _chunks(self) -> Iterator[bytes]:
        self.file.seek(0)
        while chunk := self.file.read(_CHUNK):
            if self.is_cancelled:
                raise Interrupted
            yield chunk

    def _has_lease(self) -> bool:
        if sys.platform != "linux":
            return False
        # While the lease is being broken, this is the type that it must be reduced to.
        return fcntl.fcntl(self.file.fileno(), fcntl.F_GETLEASE) == fcntl.F_RDLCK


def writers_of(path: Path) -> Writers:
    """Return whether a process has the file open for writing."""
    try:
        with SourceFile(path) as file:
            return file.writers
    except (OSError, NotARegularFile):
        return Writers.NONE  # removed or not readable: receiving it reports that


def _acquire_lease(fd: int) -> Writers:
    if sys.platform != "linux":
        return Writers.UNKNOWN
    try:
        # The kernel refuses a read lease while the file has a writer. If one opens the file while we hold the
        # lease, we get a signal: by default SIGIO, which kills the process; SIGURG is ignored.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return Writers.SOME
    except OSError:
        return Writers.UNKNOWN  # another user owns the file, or its file system has no leases
    return Writers.NONE


def _clone(source: int, target: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False  # another file system, or one without reflinks
    return True


def _read(file: FileIO) -> Iterator[bytes]:
    file.seek(0)
    while chunk := file.read(_CHUNK):
        yield chunk


def decodable(name: str) -> str:
    """Return a file name of any bytes as text that PostgreSQL can store."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\0", "\ufffd")
