"""What all readers of archives share."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from flows.errors import BadInput
from flows.stages.extract.limits import Budget

#: Bytes read at once.
CHUNK = 256 * 1024
#: The largest dictionary a decompressor may ask for: no setting of 7-Zip, xz or zstd by name asks for more.
DICTIONARY = 256 << 20
#: Bytes at the start of a file that tell what it is.
HEAD = 1024

ENCRYPTED = "it is encrypted: pack the export again without a password"
PART_OF_SEVERAL = "it is one part of a split archive: join the parts, unpack them, and pack the export anew"


class Member(NamedTuple):
    """One member as its archive names it; ``handle`` is its reader's own.

    ``size`` is what the archive claims, in bytes; 0 if it does not say.
    """

    path: str
    size: int
    regular: bool = True
    encrypted: bool = False
    handle: Any = None


class Readable(Protocol):
    """What gives bytes."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, none at the end."""


#: Members that were asked for, each with the chunks of its bytes.
Contents = Iterator[tuple[Member, Iterator[bytes]]]


class Archive(Protocol):
    """What every reader offers."""

    def members(self) -> Iterable[Member]:
        """Return all members except folders, in the archive's order."""

    def read(self, wanted: Sequence[Member]) -> Contents:
        """Yield each wanted member with the chunks of its bytes, good until the next one is asked for.

        They come in the archive's order. No chunk is larger than CHUNK, whatever is compressed in it. The
        chunks raise BadInput where the member is damaged, and TooLarge past the limits.
        """


@contextmanager
def reading() -> Iterator[None]:
    """Turn whatever a library raises on damaged bytes into BadInput, but not the machine's own troubles."""
    try:
        yield
    except BadInput:
        raise
    except OSError as error:
        if error.errno not in {None, errno.EINVAL}:  # decompressors set none; a seek to nowhere is EINVAL
            raise
        raise damaged(error) from error
    except NotImplementedError as error:
        raise BadInput(f"{error}: pack it again as an ordinary ZIP") from error
    except MemoryError as error:
        raise BadInput("reading it takes more memory than is allowed: pack it again as a ZIP") from error
    except Exception as error:
        raise damaged(error) from error


def damaged(error: object) -> BadInput:
    """Return what to raise for an archive that does not hold together."""
    return BadInput(f"it is damaged ({str(error) or type(error).__name__}): copy it again")


def unread_method(name: str) -> BadInput:
    """Return what to raise for a way of compression that is not read."""
    return BadInput(f"its way of compression ({name}) is not read: pack it again as an ordinary ZIP")


def chunks_of(stream: Readable, budget: Budget | None = None) -> Iterator[bytes]:
    """Yield what is left in ``stream``; spend it from ``budget``, unless the stream itself does.

    The first chunk is small: often no more is wanted than to see what a member is.
    """
    size = HEAD
    while True:
        with reading():
            chunk = stream.read(size)
        size = CHUNK
        if not chunk:
            return
        if budget:
            budget.spend(len(chunk))
        yield chunk
