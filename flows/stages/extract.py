"""Extract: from each source file of a batch, the few members that convert reads.

``python -m flows.stages.extract INPUT OUTPUT [--media]`` obeys :mod:`flows.stages.contract`. Below OUTPUT
each source file has a directory of its own name with ``result.json``, ``messages*.html`` and what finds them,
at the paths they had in the archive. Media is not unpacked but listed: a JSON line ``{"entry", "path",
"size"}`` each in ``media.jsonl`` (``size`` in bytes, as the archive claims).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, NoReturn

import msgspec

from flows.errors import BadInput
from flows.stages.archives import Archive, Bare, Member, open_archive
from flows.stages.contract import FileOutcome, Result, new_output, print_result, read_result, write_result
from flows.stages.entry import Entry, Limits, TooLarge, safe_path

MEDIA_LIST = "media.jsonl"
#: sysexits.h: wrong usage no retry can mend (contract.PERMANENT), a full disk may have room again.
_USAGE, _TEMPORARY = 64, 75
_EXPORT = re.compile(
    r"(.*/)?([^/]+\.json|messages[^/]*\.html?|export_results\.html|lists/chats\.html)", re.IGNORECASE
)
#: What Telegram Desktop's pages are furnished with, and what macOS adds: neither export nor media.
_FURNITURE = re.compile(r"(.*/)?((css|js|images)/[^/]+\.(css|js|png)|__MACOSX/.*|\._[^/]*|\.DS_Store)")
_NESTED = re.compile(r".*\.(zip|7z|rar|tar|tgz|gz|bz2|xz|zst)", re.IGNORECASE)
#: One of these keys stands near the beginning of every export; it tells one from any other JSON file.
_KEYS = re.compile(rb'"(messages|chats|left_chats|personal_information|about)"\s*:')
_HEAD = 16 * 1024
_OUTSIDE = "the path leads out of the archive or too deep"
_LINK = "links and devices are not followed"
_ENCRYPTED = "it is encrypted: pack the export again without a password"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage as a process; return its exit status."""
    options = _parser().parse_args(argv)
    os.umask(0o077)
    limits = Limits(options.max_bytes, options.max_ratio, options.max_entries, options.max_depth)
    try:
        result = read_result(options.output)
        result = result or extract(options.input, options.output, limits, media=options.media)
    except OSError as error:  # a full or failing disk is no fault of any source file
        sys.stderr.write(f"cannot extract: {error}\n")
        return _TEMPORARY
    print_result(result)
    return 0


def extract(source: Path, output: Path, limits: Limits, *, media: bool = False) -> Result:
    """Extract every source file in ``source`` into the new directory ``output``; return the result.

    Raises OSError if the machine fails (a full disk, for one), never for what is in a source file.
    """
    with new_output(output) as partial:
        result = Result(stage="extract")
        with (partial / MEDIA_LIST).open("wb") as media_list:
            for entry in sorted(source.iterdir()):
                outcome = _extract_file(entry, partial / entry.name, limits, media_list, media=media)
                result.files.append(outcome)
                for name, number in outcome.counts.items():
                    result.counts[name] = result.counts.get(name, 0) + number
        write_result(partial, result)
    return result


def _extract_file(
    source: Path, target: Path, limits: Limits, media_list: IO[bytes], *, media: bool
) -> FileOutcome:
    if not source.is_file():
        problem = "a folder: zip it and drop the ZIP" if source.is_dir() else "gone: drop the file in again"
        return FileOutcome(source.name, "quarantined", problem)
    size = source.stat().st_size
    try:
        with open_archive(source, limits.entries) as archive:
            entry = Entry(target, size, limits)
            sorted_ = _sort(archive, limits)
            _unpack(archive, sorted_, entry, media=media)
    except BadInput as error:
        shutil.rmtree(target, ignore_errors=True)
        return FileOutcome(source.name, "quarantined", str(error), {"bytes_in": size})
    if not media:
        _list_media(media_list, source.name, sorted_.media)
    counts = {
        "bytes_in": size,
        "bytes_out": entry.bytes,
        "members": len(entry),
        "media": len(sorted_.media),
        "media_bytes": sum(member.size for member in sorted_.media),
    }
    reason = sorted_.reason()
    return FileOutcome(source.name, "partial" if reason else "ok", reason, counts)


@dataclass
class _Sorted:
    """The members of an archive by what becomes of them, under safe paths; names ``left_out`` by reason."""

    exports: list[Member] = field(default_factory=list)
    media: list[Member] = field(default_factory=list)
    left_out: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def leaving_out(self, member: Member) -> Iterator[None]:
        """Go on without ``member`` if it is damaged."""
        try:
            yield
        except TooLarge:
            raise
        except BadInput as error:
            self.left_out[str(error)].append(member.path)

    def reason(self) -> str | None:
        """Return what was left out and why, for the operator; None if nothing was."""
        parts = [
            f"{names[0]!r}{f' and {len(names) - 1} more' if names[1:] else ''} left out: {why}"
            for why, names in self.left_out.items()
        ]
        return "; ".join(parts) or None


def _sort(archive: Archive, limits: Limits) -> _Sorted:
    result = _Sorted()
    for member in archive.members():
        path = safe_path(member.path, limits.depth)
        if path is None:
            result.left_out[_OUTSIDE].append(member.path[:200])
        elif _FURNITURE.fullmatch(path):
            continue
        elif not member.regular:
            result.left_out[_LINK].append(path)
        elif member.encrypted:
            result.left_out[_ENCRYPTED].append(path)
        else:
            kind = result.exports if _EXPORT.fullmatch(path) else result.media
            kind.append(member._replace(path=path))
    return result


def _unpack(archive: Archive, members: _Sorted, entry: Entry, *, media: bool) -> None:
    """Write what is wanted; raise BadInput if no export is among it."""
    for member, chunks in archive.read(members.exports):
        with members.leaving_out(member):
            content = _if_export(member.path, chunks)
            if content is not None and isinstance(archive, Bare):
                entry.link(member.path, archive.path)
            elif content is not None:
                entry.write(member.path, content)
    if not len(entry):
        raise BadInput(members.reason() or _not_an_export(members))
    for member, chunks in archive.read(members.media if media else []):
        with members.leaving_out(member):
            entry.write(member.path, chunks)


def _if_export(path: str, chunks: Iterator[bytes]) -> Iterator[bytes] | None:
    """Return the chunks whole again, or None if they are JSON of another kind."""
    if not path.lower().endswith(".json"):
        return chunks
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= _HEAD:
            break
    return chain([head], chunks) if _KEYS.search(head, 0, _HEAD) else None


def _not_an_export(members: _Sorted) -> str:
    names = [member.path for member in members.exports + members.media]
    nested = [name for name in names if _NESTED.fullmatch(name)]
    if nested:
        return f"it holds archives, such as {nested[0]!r}: unpack it and drop them one by one"
    such = f"among its {len(names)} files, such as {names[0]!r}" if names else "in it, nor anything else"
    return f"not a Telegram export: no result.json or messages.html {such}"


def _list_media(media_list: IO[bytes], entry: str, media: list[Member]) -> None:
    for member in media:
        media_list.write(
            msgspec.json.encode({"entry": entry, "path": member.path, "size": member.size}) + b"\n"
        )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE, f"{self.format_usage()}{message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m flows.stages.extract", description="Extract the source files of a batch."
    )
    default = Limits()
    parser.add_argument("input", type=Path, help="directory with one entry per source file")
    parser.add_argument("output", type=Path, help="directory to make")
    parser.add_argument("--media", action="store_true", help="unpack media too, not only list it")
    parser.add_argument("--max-bytes", type=int, default=default.bytes, help="unpacked bytes per source file")
    parser.add_argument("--max-ratio", type=int, default=default.ratio, help="unpacked to packed bytes")
    parser.add_argument("--max-entries", type=int, default=default.entries, help="members of an archive")
    parser.add_argument("--max-depth", type=int, default=default.depth, help="folders within folders")
    return parser


if __name__ == "__main__":
    sys.exit(main())
