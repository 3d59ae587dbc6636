"""The interface and helpers that all readers of archives share."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from flows.errors import BadInput
from flows.stages.extract.limits import Budget

#: Bytes read at once.
CHUNK = 256 * 1024
#: Bytes of the largest dictionary of a decompressor: no preset of 7-Zip, xz or zstd needs more.
DICTIONARY = 256 << 20
#: Bytes at the start of a file from which its format is detected.
HEAD = 1024

ENCRYPTED = "it is encrypted: pack the export again without a password"
PART_OF_SEVERAL = "it is one part of a split archive: join the parts, unpack them and pack the export again"
BEHIND = (
    "behind its end are more bytes that were not read: if they are an archive or export, submit them alone"
)


class EndsEarly(BadInput):
    """A stream of bytes ends too early; what was read of it before is valid."""

    def __init__(self) -> None:
        """Set the message for the operator."""
        super().__init__("it is cut off: copy it again in full")


class Member(NamedTuple):
    """One member of an archive, with its name in ``path``; ``handle`` is for its reader only.

    ``size`` is in bytes as the archive states it; 0 if it is unknown. ``target`` is the path in the archive
    to which a link leads, empty if it is not a link or the reader cannot tell.
    """

    path: str
    size: int
    regular: bool = True
    encrypted: bool = False
    handle: Any = None
    target: str = ""


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, none at the end."""


#: Requested members, each with the chunks of its bytes.
Contents = Iterator[tuple[Member, Iterator[bytes]]]


class Archive(Protocol):
    """The interface of every reader.

    ``problem`` says for the operator which part of the archive itself could not be read; None if none. It is
    complete once all members have been listed and the wanted ones read.
    """

    @property
    def problem(self) -> str | None:
        """The part of the archive itself that could not be read."""

    def members(self) -> Iterable[Member]:
        """Return all members except folders, in the archive's order."""

    def read(self, wanted: Sequence[Member]) -> Contents:
        """Yield each wanted member with the chunks of its bytes, which are valid until the next member.

        Members come in the archive's order. No chunk is larger than CHUNK, whatever its compression. The
        chunks raise BadInput if the member is damaged, EndsEarly behind the bytes before a cut, and TooLarge
        past the limits.
        """


@contextmanager
def reading() -> Iterator[None]:
    """Raise BadInput for every error of a library on damaged bytes, but not for errors of the machine."""
    try:
        yield
    except BadInput:
        raise
    except EOFError as error:
        raise EndsEarly from error
    except OSError as error:
        if error.errno not in {None, errno.EINVAL}:  # decompressors set none; an invalid seek is EINVAL
            raise
        raise damaged(error) from error
    except NotImplementedError as error:
        raise BadInput(f"{error}: pack it again as an ordinary ZIP") from error
    except MemoryError as error:
        raise BadInput("reading it takes more memory than is allowed: pack it again as a ZIP") from error
    except Exception as error:
        raise damaged(error) from error


def damaged(error: object) -> BadInput:
    """Return the error for a damaged archive."""
    return BadInput(f"it is damaged ({str(error) or type(error).__name__}): copy it again")


def unsupported_method(name: str) -> BadInput:
    """Return the error for an unsupported compression method."""
    return BadInput(f"its compression method ({name}) is not supported: pack it again as an ordinary ZIP")


def chunks_of(stream: Readable, budget: Budget | None = None) -> Iterator[bytes]:
    """Yield the rest of ``stream``; count it in ``budget`` unless the stream counts itself.

    The first chunk is small: often only the format of a member is needed.
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
