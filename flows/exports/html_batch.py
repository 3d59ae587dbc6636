"""What the HTML exports of one batch have in common: their time zone, and parts in different source files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from flows.exports.chains import across
from flows.exports.discover import Export, discover
from flows.exports.html_message import Above
from flows.exports.pages import Page, read_page
from flows.exports.twins import Twins
from flows.exports.zones import Clock


class End(NamedTuple):
    """The state after the last message of an export, with which the part after it begins."""

    chat_key: str
    above: Above


class HtmlBatch:
    """The context in which HTML exports are read; without ``entries``, each export stands alone.

    ``zone`` is the IANA name of the exports' time zone. Raises ValueError if there is no such zone.
    """

    def __init__(self, zone: str | None = None, entries: Iterable[Path] = ()) -> None:
        """Find the exports of all entries, and those that continue others."""
        self.clock = Clock(zone)
        self.twins: Twins | None = None
        self._exports = {entry: discover(entry) for entry in entries}
        ends = [
            (read_page(export.parts[0]), read_page(export.parts[-1]))
            for exports in self._exports.values()
            for export in exports
            if export.form == "html"
        ]
        last_of = {last.path: first.path for first, last in ends}
        self._before = across(ends) if len(ends) > 1 else {}
        #: First part of the export that is continued, by the first part of the one that continues it.
        self._source = {first: last_of[last.path] for first, last in self._before.items()}
        self._ended: dict[Path, End] = {}

    def in_order(self) -> Iterator[Path]:
        """Yield the entries; one that continues another follows it."""
        after: dict[Path, list[Path]] = {}
        for entry, source in self._links():
            after.setdefault(entry, []).append(source)
        seen: dict[Path, None] = {}
        for entry in self._exports:
            for one in reversed(_before(entry, after)):
                seen.setdefault(one)
        yield from seen

    def is_linked(self, entry: Path) -> bool:
        """Return whether an entry continues another one, or is continued by it."""
        return any(entry in link and link[0] != link[1] for link in self._links())

    def _links(self) -> Iterator[tuple[Path, Path]]:
        """Yield entries that continue an entry, maybe their own, and the entry that each continues."""
        entry_of = {export.parts[0]: entry for entry, exports in self._exports.items() for export in exports}
        for first, source in self._source.items():
            yield entry_of[first], entry_of[source]

    def exports(self, entry: Path) -> list[Export]:
        """Return the exports of an entry, whose source file is read next."""
        exports = self._exports.get(entry) or discover(entry)
        self.twins = Twins() if {export.form for export in exports} == {"json", "html"} else None
        return exports

    def stands_alone(self, export: Export) -> bool:
        """Return whether an export of the entry that is read has to do with no other export."""
        return not (self.twins or export.parts[0] in self._before or self.is_continued(export))

    def page_before(self, export: Export) -> Page | None:
        """Return the last page of the export that ``export`` continues."""
        return self._before.get(export.parts[0])

    def is_continued(self, export: Export) -> bool:
        """Return whether another export continues this one."""
        return export.parts[0] in self._source.values()

    def end_before(self, export: Export) -> End | None:
        """Return the end of the export that ``export`` continues, once that was read."""
        source = self._source.get(export.parts[0])
        return self._ended.get(source) if source else None

    def ended(self, export: Export, end: End) -> None:
        """Keep the end of an export for the one that continues it."""
        self._ended[export.parts[0]] = end


def _before(entry: Path, after: dict[Path, list[Path]]) -> list[Path]:
    """Return ``entry`` and all entries that have to be read before it, nearest first."""
    found = [entry]
    for one in found:
        found += [other for other in after.get(one, []) if other not in found]
    return found
