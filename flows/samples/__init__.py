"""Generate sample exports for demos and tests: seeded, as varied as Telegram Desktop's, with counts."""

from __future__ import annotations

from pathlib import Path

import msgspec

from flows.samples.archives import BREAKAGES, PACKINGS, Packed, both, pages, updated
from flows.samples.exports import Maker, SampleSpec

#: Repetitions of a chat: the same file, a later export, the same export in the other form.
_REPEATS = [(both, "duplicate"), (updated, "ok"), (pages, "ok")]


class ExpectedFile(msgspec.Struct):
    """The expected outcome of one sample (ok, partial, quarantined, duplicate) and its rows."""

    outcome: str
    chats: int
    messages: int


class Expected(msgspec.Struct):
    """The generator's counts: ``chats`` and ``messages`` are the distinct rows expected in the tables."""

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
    """Write ``files`` valid and ``broken`` invalid source files into ``directory``; return their counts.

    Each valid file has exactly ``messages`` messages of its own chats. ``again`` adds files, at most three
    per nine valid ones, that repeat a chat: in turn a copy, a later export with edits and a quarter more
    messages, and the same export as HTML. ``media_bytes`` is the size of each media file (0: no media);
    ``page`` the number of messages per HTML page (1,000 in Telegram Desktop; fewer by default, so that small
    samples have several pages). The same arguments write the same bytes. Raises ValueError if ``again`` is
    too large.
    """
    directory.mkdir(parents=True, exist_ok=True)
    expected = Expected(files + broken + again, 0, 0, {})
    repeatable: list[SampleSpec] = []
    bad = 0
    for position in range(files + broken):
        spec = SampleSpec(seed, position, messages, media_bytes, page)
        if (position + 1) * broken // (files + broken) > bad:
            (pack, outcome), bad = BREAKAGES[bad % len(BREAKAGES)], bad + 1
        else:
            pack, outcome = PACKINGS[(position - bad) % len(PACKINGS)], "ok"
        if pack is both:
            repeatable.append(spec)
        file = _write(directory, position, pack(Maker(spec)), outcome, expected)
        expected.chats += file.chats
        expected.messages += file.messages
    if again > len(_REPEATS) * len(repeatable):
        raise ValueError(f"{files} files allow at most {len(_REPEATS) * len(repeatable)} repetitions")
    _write_again(directory, repeatable, again, files + broken, expected)
    return expected


def _write_again(
    directory: Path, repeatable: list[SampleSpec], again: int, position: int, expected: Expected
) -> None:
    for number in range(again):
        pack, outcome = _REPEATS[number % len(_REPEATS)]
        spec = repeatable[number // len(_REPEATS)]
        file = _write(directory, position + number, pack(Maker(spec)), outcome, expected)
        expected.messages += file.messages - spec.messages


def _write(directory: Path, position: int, packed: Packed, outcome: str, expected: Expected) -> ExpectedFile:
    name = f"{position:04d} {packed.name}"
    (directory / name).write_bytes(packed.data)
    expected.by_file[name] = ExpectedFile(outcome, packed.chats, packed.messages)
    return expected.by_file[name]
