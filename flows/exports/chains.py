"""Put pages of HTML together: the parts of one chat, in a folder and across the source files of a batch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from flows.exports.pages import Page, read_page

Chain = list[Page]
#: Ids between the last message of a part and the first one of the next, of messages that were deleted.
_GAP = 1000


def chains(pages: Iterable[Page]) -> list[Chain]:
    """Return the pages of one folder as chats, each with its parts in order; parts may be missing.

    Pages belong together if they have the same title, increasing numbers and increasing ids.
    """
    found: list[Chain] = []
    for page in sorted(pages, key=_order):
        before = [chain for chain in found if _may_follow(chain[-1], page)]
        if before:
            max(before, key=lambda chain: _nearness(chain[-1])).append(page)
        else:
            found.append([page])
    return found


def has_next_beside(last: Page) -> bool:
    """Return whether the part to which ``last`` links is in its folder: a copy of ``last`` has taken it."""
    beside = last.path.with_name(last.following)
    return beside.is_file() and _may_follow(last, read_page(beside))


def across(ends: Iterable[tuple[Page, Page]]) -> dict[Path, Page]:
    """Link exports of different source files of which one continues another.

    ``ends`` are the first and the last page of each export. Returns the page before the first page of each
    export that continues another, by that page's path. Each export is continued once at most.
    """
    before: dict[Path, Page] = {}
    for first, _ in sorted(ends, key=lambda pair: _order(pair[0])):
        used = {page.path for page in before.values()}
        candidates = [
            last
            for _, last in ends
            if last.path not in used and last.path != first.path and _continues(last, first)
        ]
        if candidates:
            before[first.path] = max(candidates, key=_nearness)
    return before


def _continues(last: Page, first: Page) -> bool:
    """Return whether ``first`` continues ``last``, which may come from another person's export."""
    if not first.title or not last.following or not _may_follow(last, first):
        return False
    if first.number != last.number + 1 or not (last.bars and first.bars):
        return True
    return first.bars[0] in (last.bars[-1] - 1, last.bars[-1], -1)


def _may_follow(last: Page, page: Page) -> bool:
    """Return whether ``page`` can be a later part of the chat that ``last`` belongs to."""
    if page.number <= last.number or (page.title != last.title and not _is_next_beside(last, page)):
        return False
    if page.number == last.number + 1 and page.back and last.complete and not last.following:
        return False
    return page.first is None or last.last is None or last.last < page.first


def _is_next_beside(last: Page, page: Page) -> bool:
    """Return whether two pages of one folder link to each other, and day bars and ids go on.

    Then they are one chat, although somebody has changed a title.
    """
    names = page.path.name, last.path.name, last.path.parent
    if (last.following, page.back, page.path.parent) != names:
        return False
    if not (last.bars and page.bars and last.last and page.first):
        return False
    return page.bars[0] in (last.bars[-1] - 1, last.bars[-1]) and 0 < page.first - last.last < _GAP


def _order(page: Page) -> tuple[int, str, int, str]:
    return page.number, page.title, page.first or 0, str(page.path)


def _nearness(last: Page) -> tuple[int, int]:
    return last.number, last.last or 0
