"""The fonts of a picture: those of this machine that have the characters of its texts."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

#: Comes with matplotlib: Latin, Greek, Cyrillic, Arabic and more, but no Chinese, Japanese, Korean or Thai.
_FIRST = "DejaVu Sans"
#: Has a box for every character.
_BOXES = "Last Resort"
_REGULAR = 400


class Fonts(NamedTuple):
    """Families of fonts, in the order in which a character is looked up, and the characters that none of them
    has."""

    families: list[str]
    missing: frozenset[str]

    def label(self, name: str | None, otherwise: str, length: int = 28) -> str:
        """Return the characters of a name that have pictures, at most ``length``; else ``otherwise``."""
        shown = "".join(c for c in plain(name or "") if c not in self.missing)
        shown = " ".join(shown.split()) or otherwise
        return shown if len(shown) <= length else f"{shown[: length - 1]}…"


def fonts_for(texts: Iterable[str]) -> Fonts:
    """Return the fonts with which the texts are drawn."""
    wanted = {character for text in texts for character in plain(text) if not character.isspace()}
    families = []
    for family, path in _installed():
        if not wanted:
            break
        if had := _had(path, wanted):
            families.append(family)
            wanted -= had
    return Fonts(families or [_FIRST], frozenset(wanted))


def plain(text: str) -> str:
    """Return the characters of a text that have pictures, and spaces instead of controls.

    Joiners, marks of direction and selectors of another form of the last character have none.
    """
    return "".join(" " if unicodedata.category(c) == "Cc" else c for c in text if not _is_invisible(c))


def _is_invisible(character: str) -> bool:
    is_selector = 0xFE00 <= ord(character) <= 0xFE0F
    return is_selector or unicodedata.category(character) in ("Cf", "Cs", "Cn", "Co")


def _installed() -> Iterator[tuple[str, str]]:
    """Yield family and path of each upright font of ordinary weight, that of matplotlib first."""
    from matplotlib import font_manager

    yield _FIRST, font_manager.findfont(_FIRST)
    entries = sorted(font_manager.fontManager.ttflist, key=lambda each: each.name)
    for each in entries:
        if each.style == "normal" and each.weight == _REGULAR and not each.name.startswith(_BOXES):
            yield each.name, str(each.fname)


def _had(path: str, wanted: set[str]) -> set[str]:
    from matplotlib import font_manager

    try:
        font = font_manager.get_font(path)
    except (OSError, RuntimeError):  # a damaged font, or one that was removed
        return set()
    return {character for character in wanted if font.get_char_index(ord(character))}
