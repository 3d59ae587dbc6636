"""Classify a member by its path: media of an export, or one part of a split archive."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from flows.domain import MEDIA_FOLDERS

#: From the folder of an export: its folders for media, or those of one chat of an account.
_MEDIA = re.compile(rf"((left_)?chats/chat_\d+/)?({'|'.join(sorted(MEDIA_FOLDERS))})/", re.IGNORECASE)
_PACKED = "zip|7z|rar|tar|tgz|tbz2?|txz|gz|bz2|xz|zst"
#: Names of the parts that 7-Zip (.7z.001), WinRAR, Info-ZIP (.z01) and split (.tgz.aa) write.
_PART = re.compile(
    rf"(?P<whole>.*\.({_PACKED}|json|html?))\.(\d{{3}}|[a-c][a-z])|(?P<stem>.*)\.([rz]\d\d|part\d+\.rar)",
    re.IGNORECASE | re.DOTALL,
)
#: Names of parts that other files can have, too (chat.001, xaa).
_MAY_BE_PART = re.compile(r"(?P<whole>.*)\.\d{3}|(?P<stem>(.*[/-])?x)[a-c][a-z]", re.IGNORECASE | re.DOTALL)


def may_be_part(name: str) -> bool:
    """Return whether a file has a name that parts of split archives have."""
    return bool(_PART.fullmatch(name) or _MAY_BE_PART.fullmatch(name))


def parts_among(paths: Collection[str], unread: Collection[str]) -> set[str]:
    """Return those ``paths`` that are parts of split archives.

    A name like ``chat.001`` counts only if another part of the same archive could not be read (``unread``).
    """
    wholes = {_whole_of(path) for path in unread} - {None}
    return {path for path in paths if _PART.fullmatch(path) or _whole_of(path) in wholes}


def is_media(path: str, folders: Collection[str]) -> bool:
    """Return whether ``path`` is in a folder for media of an export in one of ``folders``."""
    return any(
        folder in folders and _MEDIA.match(path, len(folder) + 1 if folder else 0)
        for folder in _folders_of(path)
    )


def _whole_of(path: str) -> str | None:
    """Return the path of the archive that ``path`` is a part of, if it may be one."""
    match = _PART.fullmatch(path) or _MAY_BE_PART.fullmatch(path)
    return (match["whole"] or match["stem"]) if match else None


def _folders_of(path: str) -> Iterator[str]:
    """Yield every folder above ``path``, beginning with the archive's root."""
    yield ""
    for slash in re.finditer("/", path):
        yield path[: slash.start()]
