"""Sample exports for trying and testing: seeded, as varied as Telegram Desktop's, counted."""

from __future__ import annotations

from pathlib import Path

import msgspec

from flows.samples.archives import BREAKAGES, PACKINGS, Packed, both, pages, updated
from flows.samples.exports import Maker, Wish

#: How a chat comes again: the same file, a later export, the same export in the other form.
_REPEATS = [(both, "duplicate"), (updated, "ok"), (pages, "ok")]


class ExpectedFile(msgspec.Struct):
    """What a faithful pipeline makes of one sample: rows in it, and ok, partial, quarantined or duplicate."""

    outcome: str
    chats: int
    messages: int


class Expected(msgspec.Struct):
    """The generator's own counts: ``chats`` and ``messages`` are the distinct rows to be found in the end."""

    files: int
    chats: int
    messages: int
    by_file: dict[str, ExpectedFile]


def write_samples(
    directory: Path,
    files: int,
    messages: int,
    seed: int,
    broken: int = 0,
    again: int = 0,
    media_bytes: int = 1024,
    page: int = 40,
) -> Expected:
    """Write ``files`` good and ``broken`` bad source files into ``directory`` and return what is in them.

    Each good one holds exactly ``messages`` messages of chats of its own. ``again`` adds files, at most three
    for every nine good ones, with a chat that is there already: by turns a copy, a later export with edits
    and a quarter more messages, and the same export as HTML. ``media_bytes`` is the size of each media file
    (0: all media left out); ``page`` the messages of an HTML page (1,000 in Telegram Desktop, fewer here so
    that small samples have several). The same arguments write the same bytes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    expected = Expected(files + broken + again, 0, 0, {})
    repeatable: list[Wish] = []
    bad = 0
    for position in range(files + broken):
        wish = Wish(seed, position, messages, media_bytes, page)
        if (position + 1) * broken // (files + broken) > bad:
            (pack, outcome), bad = BREAKAGES[bad % len(BREAKAGES)], bad + 1
        else:
            pack, outcome = PACKINGS[(position - bad) % len(PACKINGS)], "ok"
        if pack is both:
            repeatable.append(wish)
        file = _write(directory, position, pack(Maker(wish)), outcome, expected)
        expected.chats += file.chats
        expected.messages += file.messages
    if again > len(_REPEATS) * len(repeatable):
        raise ValueError(f"{files} files can come again at most {len(_REPEATS) * len(repeatable)} times")
    for number in range(again):
        pack, outcome = _REPEATS[number % len(_REPEATS)]
        maker = Maker(repeatable[number // len(_REPEATS)])
        file = _write(directory, files + broken + number, pack(maker), outcome, expected)
        expected.messages += file.messages - messages
    return expected


def _write(directory: Path, position: int, packed: Packed, outcome: str, expected: Expected) -> ExpectedFile:
    name = f"{position:04d} {packed.name}"
    (directory / name).write_bytes(packed.data)
    expected.by_file[name] = ExpectedFile(outcome, packed.chats, packed.messages)
    return expected.by_file[name]
