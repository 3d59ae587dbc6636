"""Tar, plain or compressed: read sequentially, once to list its members and once to unpack them."""

from __future__ import annotations

import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, cast

from flows.errors import BadInput
from flows.stages.extract.archives.base import (
    BEHIND,
    CHUNK,
    HEAD,
    Contents,
    EndsEarly,
    Member,
    Readable,
    chunks_of,
    damaged,
    reading,
)
from flows.stages.extract.archives.names import decode_name
from flows.stages.extract.archives.streams import PADDING, Forward, Unpacked
from flows.stages.extract.limits import Budget, Meter, TooLarge

_BLOCK = 512


def is_tar(head: bytes) -> bool:
    """Return whether a file begins with a tar header that has a valid checksum."""
    try:
        tarfile.TarInfo.frombuf(head[:_BLOCK], "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return False
    return True


class Tar:
    """One or more concatenated archives in a stream; ``new_stream`` returns the stream from its start."""

    def __init__(self, new_stream: Callable[[], Readable], budget: Budget) -> None:
        """Store the arguments; nothing is read yet."""
        self._new_stream, self._budget = new_stream, budget
        self._meter = Meter(budget)
        self.problem: str | None = None

    def members(self) -> Iterable[Member]:
        """Yield the members while reading the archive to its end, or to the point where it is damaged."""
        try:
            for number, (info, _) in enumerate(self._walk()):
                self._budget.enter()
                if not info.isdir():
                    yield Member(
                        _name(info.name), info.size, info.isfile(), handle=number, target=_target(info)
                    )
        except TooLarge:
            raise
        except BadInput as error:
            self.problem = f"not read to its end: {error}"

    def read(self, wanted: Sequence[Member]) -> Contents:
        """Yield the wanted members' chunks."""
        by_number: defaultdict[int, list[Member]] = defaultdict(list)
        for member in wanted:
            by_number[member.handle].append(member)
        last = max(by_number, default=-1)
        for number, (info, tar) in enumerate(self._walk() if wanted else ()):
            members = by_number.get(number, [])
            if len(members) == 1:
                yield members[0], self._chunks(tar, info)
            elif members:
                yield from self._copies(members, self._chunks(tar, info))
            if number == last:
                return

    def _copies(self, members: Sequence[Member], chunks: Iterator[bytes]) -> Contents:
        """Yield the one content of several members, links that lead to it among them."""
        error: BadInput | None = None
        with tempfile.TemporaryFile() as copy:
            try:
                copy.writelines(chunks)
            except TooLarge:
                raise
            except BadInput as found:
                error = found
            for member in members:
                copy.seek(0)
                yield member, self._copy(copy, error, None if member is members[0] else self._budget)

    def _copy(self, copy: IO[bytes], error: BadInput | None, budget: Budget | None) -> Iterator[bytes]:
        yield from chunks_of(copy, budget)
        if error:
            raise error

    def _walk(self) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
        source = self._new_stream()
        stream = Forward(source, self._meter)
        yield from _walk_one(stream)
        while _at_another(stream):
            yield from _walk_one(stream)
        if stream.last.strip(PADDING) or (isinstance(source, Unpacked) and source.behind):
            self.problem = BEHIND

    def _chunks(self, tar: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[bytes]:
        if not info.issparse():
            yield from _content(cast("Forward", tar.fileobj), info)
            return
        with reading():
            stream = tar.extractfile(info)
        if stream is not None:
            # Holes of a sparse file are not in the stream, so its meter does not count them.
            yield from chunks_of(stream, self._budget)


def _content(stream: Forward, info: tarfile.TarInfo) -> Iterator[bytes]:
    """Yield a member's bytes; tarfile would drop the last ones before a cut."""
    left, size = info.size, HEAD
    with reading():
        stream.seek(info.offset_data)
    while left:
        with reading():
            chunk = stream.read(min(size, left))
        if not chunk:
            raise EndsEarly
        left, size = left - len(chunk), CHUNK
        yield chunk


def _name(name: str) -> str:
    return name if name.isprintable() else decode_name(name.encode("utf-8", "surrogateescape"))


def _target(info: tarfile.TarInfo) -> str:
    """Return the path to which a link leads: a hard link from the archive's root, another from its folder."""
    if info.islnk():
        return _name(info.linkname)
    folder = _name(info.name).rpartition("/")[0]
    return f"{folder}/{_name(info.linkname)}" if info.issym() and not info.linkname.startswith("/") else ""


def _walk_one(stream: Forward) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """Yield the members of the archive that begins at the position of ``stream``."""
    with reading():
        # tarfile uses only read, seek and tell.
        tar = tarfile.TarFile(fileobj=cast("IO[bytes]", stream), errorlevel=0)
    while True:
        with reading():
            info = tar.next()
        if info is None:
            break
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep all members
        yield info, tar
    if stream.last.strip(b"\0"):  # tarfile ends at an invalid header
        raise damaged("a header in the middle")
    if not stream.last:  # no block of zeros
        raise EndsEarly


def _at_another(stream: Forward) -> bool:
    """Skip the blocks of zeros behind an archive; return whether another archive follows.

    If not, ``stream.last`` has the first bytes that are not zero, none at the end of the stream.
    """
    with reading():
        while (data := stream.read(CHUNK)) and not data.strip(b"\0"):
            pass
        stream.unread(data[(len(data) - len(data.lstrip(b"\0"))) // _BLOCK * _BLOCK :])
        head = stream.read(_BLOCK)
    stream.unread(head)
    return bool(head) and is_tar(head)
