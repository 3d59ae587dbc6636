"""The programs that unpack compressed members of RAR archives: which of them is installed and can read one.

:mod:`rarfile` runs them, one process per member, and checks size and checksum of what they write. Each of
them fails on some archives: unrar-free on most, unar on some solid ones, bsdtar on others, and 7z has no RAR
in some distributions. So each installed program is tried with the beginning of a member.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import rarfile

#: Bytes of a member that a program has to unpack, at most.
_BEGINNING = 1 << 16


class _Tool(rarfile.ToolSetup):  # type: ignore[misc]
    """A program. ``escaped`` returns the name of a member so that it is not taken for a pattern."""

    def __init__(self, setup: dict[str, Any], escaped: Callable[[str], str] = str) -> None:
        super().__init__(setup)
        self._escaped = escaped

    def add_file_arg(self, cmdline: list[str], filename: str) -> None:
        cmdline.append(self._escaped(filename))


class _Bsdtar(_Tool):
    def open_cmdline(self, pwd: str | None, rarfn: str, filefn: str | None = None) -> list[str]:
        """Return the command for one member or for all; rarfile's own names no archive."""
        members = [self._escaped(filefn)] if filefn else []
        return [rarfile.BSDTAR_TOOL, "-x", "--to-stdout", "-f", rarfn, "--", *members]


def _not_a_pattern(setup: dict[str, Any]) -> dict[str, Any]:
    return {**setup, "open_cmd": (*setup["open_cmd"], "-spd")}


#: All of them, the best first.
TOOLS = (
    _Tool(rarfile.UNRAR_CONFIG),
    _Tool(rarfile.UNAR_CONFIG, partial(re.compile(r"\[").sub, "[[]")),
    _Tool(_not_a_pattern(rarfile.SEVENZIP_CONFIG)),
    _Tool(_not_a_pattern(rarfile.SEVENZIP2_CONFIG)),
    _Bsdtar(rarfile.BSDTAR_CONFIG, partial(re.compile(r"[\[*?]").sub, r"[\g<0>]")),
)


def read_without_comments() -> None:
    """Keep rarfile from running a program for a compressed comment, which says nothing about the members."""
    rarfile.RAR_MAX_COMMENT = -1


def choose(archive: rarfile.RarFile, member: Any) -> bool:
    """Let rarfile use the first program that unpacks the beginning of ``member``; return whether one exists.

    If none of them can, the first installed one is used, and its error is reported.
    """
    installed = _installed()
    for tool in installed if len(installed) > 1 else ():
        rarfile.CURRENT_SETUP = tool
        if _unpacks(archive, member):
            return True
    rarfile.CURRENT_SETUP = installed[0] if installed else None
    return bool(installed)


@lru_cache
def _installed() -> list[_Tool]:
    return [tool for tool in TOOLS if tool.check()]


def _unpacks(archive: rarfile.RarFile, member: Any) -> bool:
    size: int = min(member.file_size, _BEGINNING)
    try:
        with archive.open(member) as stream:
            beginning: bytes = stream.read(size)
            return len(beginning) == size
    except Exception:  # an error of any kind is reported when the member is read
        return False
