"""The excerpt of a matching text, and the places in it that match.

Texts are compared about as PostgreSQL does (``search_plain``): in small letters, without accents and Arabic
vowel signs; words as wholes, but parts of texts in scripts without spaces.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

#: Characters of a snippet before and after the first match.
_BEFORE, _AFTER = 60, 140
#: Thai, Lao, Burmese, Khmer, Japanese, Chinese, as in the function search_separated.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
#: Accents, the elongation of Arabic words, and their vowel signs.
_LEFT_OUT = re.compile("[\u0300-\u036f\u0640\u064b-\u0652\u0670]")
#: Letters that Unicode does not decompose.
_LETTERS = str.maketrans({"ł": "l", "đ": "d", "ø": "o", "æ": "ae", "œ": "oe", "ı": "i"})
#: A character that a word has in scripts with spaces.
_LETTER = rf"[^\W_{_UNSPACED}]"
#: A word; vowels are marks in some scripts, which Python does not take for letters.
_WORD = re.compile(r"(?:[^\W_]|[\u0900-\u109f\u1780-\u17ff\u3099\u309a])+")
Place = tuple[int, int]


def snippet_of(text: str, needles: Sequence[str], *, whole: bool = True) -> tuple[str, list[Place]]:
    """Return one line around the first match, and the places in it that match (first character, end).

    ``needles`` are words and phrases, or parts of texts (not ``whole``).
    """
    line = " ".join(text.split())
    places = sorted(set(_places(line, needles, whole=whole)))
    begin = max(0, (places[0][0] if places else 0) - _BEFORE)
    end = min(len(line), begin + _BEFORE + _AFTER)
    before, after = "…" if begin else "", "…" if end < len(line) else ""
    shift = len(before) - begin
    marks = [(first + shift, min(last, end) + shift) for first, last in places if begin <= first < end]
    return before + line[begin:end] + after, marks


def _places(line: str, needles: Iterable[str], *, whole: bool) -> Iterator[Place]:
    parts = [_folded(character) for character in line]
    folded = "".join(parts)
    origin = [index for index, part in enumerate(parts) for _ in part] + [len(line)]
    for needle in needles:
        plain = "".join(map(_folded, " ".join(needle.split())))
        for found in _whole(folded, plain) if whole else _anywhere(folded, [plain]):
            yield origin[found[0]], origin[found[1]]


def _whole(folded: str, needle: str) -> list[Place]:
    """Return where a phrase is; else where its words are; else where they are parts of words."""
    words = _WORD.findall(needle)
    return (
        _as_words(folded, [words])
        or _as_words(folded, [[word] for word in words])
        or _anywhere(folded, words)
    )


def _as_words(folded: str, phrases: Iterable[list[str]]) -> list[Place]:
    return [found.span() for words in phrases if words for found in _phrase(words).finditer(folded)]


def _phrase(words: Sequence[str]) -> re.Pattern[str]:
    """Return the pattern of words that follow each other, and do not continue at both ends."""
    first = f"(?<!{_LETTER})" if re.match(_LETTER, words[0]) else ""
    last = f"(?!{_LETTER})" if re.match(_LETTER, words[-1][-1]) else ""
    return re.compile(first + r"[\W_]+".join(map(re.escape, words)) + last)


def _anywhere(folded: str, needles: Iterable[str]) -> list[Place]:
    return [found.span() for each in needles if each for found in re.finditer(re.escape(each), folded)]


@lru_cache(100_000)
def _folded(character: str) -> str:
    """Return a character in small letters without its accent: several characters, or none of a mark."""
    small = character.casefold()
    if "\u0400" <= small <= "\u04ff" and small != "ё":
        return small  # й and ї are letters of their own for PostgreSQL, too
    plain = _LEFT_OUT.sub("", unicodedata.normalize("NFKD", small))
    return unicodedata.normalize("NFC", plain).translate(_LETTERS)
