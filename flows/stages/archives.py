"""Archives of any format behind one small interface, recognised by what is in them, never by their names.

A reader lists the members of an archive and streams those that are wanted. Nothing an archive says of itself
is trusted: sizes are counted while reading, names are made safe where files are written, in
:mod:`flows.stages.entry`. Whatever a library does on bytes made to break it ends as
:class:`~flows.errors.BadInput`; only trouble that is not the archive's fault (a disk that is full or failing)
leaves as OSError.
"""

from __future__ import annotations

import errno
import io
import stat
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from flows.errors import BadInput

_CHUNK = 256 * 1024
#: Of bzip2 and LZMA zipfile inflates whatever a read brings, a gigabyte from one kilobyte: they are refused.
_BOUNDED_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_MAX_READ = 64 << 20
_ENTRY = b"PK\x01\x02"
_ENCRYPTED = 0x1
_UTF8_NAME = 0x800
#: Formats told from their first bytes so that the reason can name them.
_UNREAD = [
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\x00", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
]
_TAR_MAGIC = slice(257, 262)


class Member(NamedTuple):
    """One member as its archive names it. ``size`` is what the archive claims, in bytes."""

    path: str
    size: int
    regular: bool = True
    encrypted: bool = False
    handle: Any = None


class Archive(Protocol):
    """What every reader offers."""

    def members(self) -> Iterable[Member]:
        """Return all members except folders, in the archive's order."""

    def read(self, wanted: Sequence[Member]) -> Iterator[tuple[Member, Iterator[bytes]]]:
        """Yield each wanted member with the chunks of its bytes, good until the next one is asked for.

        No chunk is larger than a few megabytes, whatever is compressed in it. The chunks raise BadInput where
        the member is damaged.
        """


@contextmanager
def open_archive(path: Path, max_entries: int) -> Iterator[Archive]:
    """Open the archive, or the bare JSON or HTML file, at ``path``.

    Raises BadInput for anything else, and for an archive of more than ``max_entries`` members.
    """
    with _BoundedFile(path, max_entries) as file:
        head = file.read(1024)
        if not head:
            raise BadInput("the file is empty: copy it again")
        text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
        if text.startswith((b"{", b"<")):
            yield Bare(path, "result.json" if text.startswith(b"{") else "messages.html")
        elif head.startswith(b"PK") or zipfile.is_zipfile(file):
            with _open_zip(file, max_entries) as archive:
                yield _Zip(archive)
        else:
            raise BadInput(_unreadable(head))


class _BoundedFile(io.FileIO):
    """A file that refuses large reads: zipfile reads a list of contents whole, whatever length it claims."""

    def __init__(self, path: Path, max_entries: int) -> None:
        super().__init__(path)
        self._max_entries = max_entries

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_READ:
            raise BadInput(
                f"the archive's list of contents is over {_MAX_READ >> 20} MB: pack fewer files together"
            )
        data = super().read(size)
        if len(data) > _CHUNK and data.count(_ENTRY) > self._max_entries:
            raise BadInput(_too_many(self._max_entries))
        return data


@contextmanager
def reading() -> Iterator[None]:
    """Turn whatever a library raises on damaged bytes into BadInput, but not the machine's own troubles."""
    try:
        yield
    except BadInput:
        raise
    except OSError as error:
        if error.errno not in {None, errno.EINVAL}:  # bz2 has none; a seek to nowhere is EINVAL
            raise
        raise BadInput(f"it is damaged ({error}): copy it again") from error
    except NotImplementedError as error:
        raise BadInput(f"{error}: pack it again as an ordinary ZIP") from error
    except Exception as error:
        raise BadInput(f"it is damaged ({error or type(error).__name__}): copy it again") from error


def _too_many(max_entries: int) -> str:
    return f"the archive holds over {max_entries:,} files: pack fewer together"


def _unreadable(head: bytes) -> str:
    names = [name for magic, name in _UNREAD if head.startswith(magic)]
    names += ["a tar archive"] if head[_TAR_MAGIC] == b"ustar" else []
    if names:
        return f"{names[0]}, a format that is not read: unpack it, and pack the export as a ZIP"
    return (
        "neither an archive nor an export: drop a ZIP of the export's folder, a result.json or messages.html"
    )


@contextmanager
def _open_zip(file: IO[bytes], max_entries: int) -> Iterator[zipfile.ZipFile]:
    if not zipfile.is_zipfile(file):
        raise BadInput("the ZIP archive is cut off, its list of contents is missing: copy it again in full")
    with reading():
        archive = zipfile.ZipFile(file)
    with archive:
        if len(archive.infolist()) > max_entries:
            raise BadInput(_too_many(max_entries))
        yield archive


class _Zip:
    """ZIP by the standard library: stored or deflated, ZIP64, with junk before and after."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def members(self) -> Iterable[Member]:
        files = (info for info in self._archive.infolist() if not info.filename.endswith(("/", "\\")))
        return map(_zip_member, files)

    def read(self, wanted: Sequence[Member]) -> Iterator[tuple[Member, Iterator[bytes]]]:
        for member in wanted:
            yield member, self._chunks(member.handle)

    def _chunks(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        if info.compress_type not in _BOUNDED_METHODS:
            raise BadInput("its way of compression is not read: pack it again as an ordinary ZIP")
        with reading():
            stream = self._archive.open(info)
        with stream:
            yield from _chunks(stream)


def _zip_member(info: zipfile.ZipInfo) -> Member:
    kind = stat.S_IFMT(info.external_attr >> 16)
    return Member(
        path=_zip_name(info),
        size=info.file_size,
        regular=kind in {0, stat.S_IFREG},
        encrypted=bool(info.flag_bits & _ENCRYPTED),
        handle=info,
    )


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return the member's name: many packers write UTF-8 without saying so; else it is CP437."""
    if info.flag_bits & _UTF8_NAME or info.filename.isascii():
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


class Bare:
    """An export's own file that came without an archive around it: an archive of one, at ``path``."""

    def __init__(self, path: Path, name: str) -> None:
        """Present the file at ``path`` as a member called ``name``."""
        self.path = path
        self._name = name

    def members(self) -> Iterable[Member]:
        """Return the file as the only member."""
        return [Member(self._name, self.path.stat().st_size)]

    def read(self, wanted: Sequence[Member]) -> Iterator[tuple[Member, Iterator[bytes]]]:
        """Yield the file, once for every time it is wanted."""
        for member in wanted:
            with self.path.open("rb", buffering=0) as stream:
                yield member, _chunks(stream)


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while True:
        with reading():
            chunk = stream.read(_CHUNK)
        if not chunk:
            return
        yield chunk
