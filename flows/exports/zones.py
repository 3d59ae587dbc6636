"""Derive instants from the wall-clock times of an HTML export, where that can be proved.

Telegram Desktop labels a time in HTML with the offset of the exporter's *standard* time, all year round: a
summer day in Berlin is labelled ``UTC+01:00``, although its offset is two hours. So a label only suggests
zones. It is the offset of a time if in each of these zones the offset at that time equals the label. If the
operator names the zone of the exports, its offset is used wherever the label agrees with that zone.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

#: All offsets that are the standard time of a zone of the IANA database (2026) in 2022, when labels appeared,
#: or later; with zones whose offset differed from it at some time since 2013, Telegram's first year. One
#: zone stands for all that had the same offsets. ``<2024-03-04``: no export of this zone has the label after
#: that day, so it does not suggest the zone for later messages. Morocco appears twice: in Windows its
#: standard time is UTC, in the IANA database UTC+1. Ireland's is UTC, as in Windows and macOS.
_LABELS = """
-11:00
-10:00 America/Adak
-09:30
-09:00 America/Anchorage America/Metlakatla
-08:00 America/Tijuana
-07:00 America/Bahia_Banderas<2022-11-01 America/Denver America/Chihuahua<2022-11-01 America/Ciudad_Juarez
       America/Dawson America/Fort_Nelson America/Mazatlan America/Ojinaga<2022-11-01
-06:00 America/Bahia_Banderas America/Chicago America/Chihuahua America/Ciudad_Juarez<2022-12-04
       America/Ojinaga Pacific/Easter
-05:00 America/Cancun America/Detroit America/Eirunepe America/Grand_Turk America/Port-au-Prince
-04:00 America/Asuncion<2024-10-18 America/Campo_Grande America/Caracas America/Coyhaique<2025-03-23
       America/Halifax America/Santiago
-03:30 America/St_Johns
-03:00 America/Asuncion America/Coyhaique America/Nuuk<2023-03-28 America/Miquelon America/Montevideo
       America/Punta_Arenas America/Sao_Paulo
-02:00 America/Nuuk America/Scoresbysund
-01:00 America/Scoresbysund<2024-04-03 Atlantic/Azores
+00:00 Africa/Casablanca Africa/Sao_Tome Antarctica/Troll Europe/London
+01:00 Africa/Casablanca Europe/Berlin
+02:00 Africa/Cairo Africa/Juba Africa/Khartoum Africa/Windhoek Asia/Amman<2022-10-29 Asia/Beirut
       Asia/Damascus<2022-10-29 Asia/Famagusta Asia/Gaza Asia/Jerusalem Asia/Nicosia Europe/Kaliningrad
+03:00 Asia/Amman Asia/Damascus Europe/Istanbul Europe/Kirov Europe/Simferopol Europe/Volgograd
+03:30 Asia/Tehran
+04:00 Asia/Baku Europe/Astrakhan Europe/Saratov
+04:30
+05:00 Antarctica/Vostok Asia/Almaty Asia/Qyzylorda Asia/Yekaterinburg
+05:30
+05:45
+06:00 Asia/Almaty<2024-03-04 Asia/Omsk
+06:30
+07:00 Antarctica/Vostok<2023-12-20 Asia/Barnaul Asia/Hovd Asia/Krasnoyarsk Asia/Novosibirsk Asia/Tomsk
+08:00 Antarctica/Casey Asia/Choibalsan Asia/Irkutsk
+08:45
+09:00 Asia/Chita Asia/Khandyga Asia/Pyongyang
+09:30 Australia/Adelaide
+10:00 Antarctica/Macquarie Asia/Ust-Nera
+10:30 Australia/Lord_Howe
+11:00 Antarctica/Casey<2023-03-10 Asia/Magadan Asia/Sakhalin Asia/Srednekolymsk Pacific/Bougainville
       Pacific/Norfolk
+12:00 Antarctica/McMurdo Pacific/Fiji
+12:45 Pacific/Chatham
+13:00 Pacific/Apia Pacific/Tongatapu
+14:00
"""
#: The first and the last year of messages for which the table was made.
_SINCE, _UNTIL = "2013", "2037"
#: Lengths of a month (the longest), a day and an hour by the characters of their times, and what completes
#: these to a time.
_SPANS = {7: timedelta(days=31), 10: timedelta(days=1), 13: timedelta(hours=1)}
_COMPLETE = {7: "-01", 10: "", 13: ":00"}
#: No zone has changed its offset twice within this time.
_STEP = timedelta(days=7)
#: In place of an offset: it changes within the span, or the time occurs twice or never.
_CHANGES = object()


class Clock:
    """Turns wall-clock times of HTML into instants; ``zone`` is the IANA name of the exports' zone."""

    def __init__(self, zone: str | None = None) -> None:
        """Raise ValueError if there is no such zone."""
        self._zone = time_zone(zone) if zone else None
        self._offset = lru_cache(20_000)(self._offset_within)
        self._midnight = lru_cache(20_000)(self._midnight_of)

    def __reduce__(self) -> tuple[Callable[[str | None], Clock], tuple[str | None]]:
        """Return what another process gets: the clock that it has for this zone."""
        return _clock, (self._zone.key if self._zone else None,)

    def instant(self, local: str, label: str | None) -> int | None:
        """Return the Unix time of ``2025-07-14T14:00:00`` labelled ``+01:00`` (or not); None if unknown."""
        try:
            midnight = self._midnight(local[:10], label)
            if not isinstance(midnight, int):
                return self._instant(local, label) if midnight is _CHANGES else None
            clock = time.fromisoformat(local[11:])
        except ValueError:
            return None
        return midnight + clock.hour * 3600 + clock.minute * 60 + clock.second

    def _midnight_of(self, day: str, label: str | None) -> int | object | None:
        """Return the Unix time at which the clocks show 0:00; None and _CHANGES as :meth:`_offset_within`."""
        offset = self._offset(day[:7], label)
        if offset is _CHANGES:
            offset = self._offset(day, label)
        return _unix(day) - offset if isinstance(offset, int) else offset

    def _instant(self, local: str, label: str | None) -> int | None:
        """Return the instant on a day on which the offset changes. Raises ValueError."""
        offset = self._offset(local[:13], label)
        return _unix(local) - offset if isinstance(offset, int) else None

    def _offset_within(self, span: str, label: str | None) -> int | object | None:
        """Return the offset in seconds of all times of a month, a day or an hour: ``2025-07-14T14``.

        None if it is unknown, _CHANGES if a zone changes its offset within the span. Raises ValueError.
        """
        begin, length = datetime.fromisoformat(span + _COMPLETE[len(span)]), _SPANS[len(span)]
        stated = None if label is None else _seconds(label)
        if self._zone and (stated is None or stated in _standard_offsets(self._zone)):
            return _offset_in(self._zone, begin, length)
        zones = _suggested(label) if label and _SINCE <= span[:4] <= _UNTIL else None
        if zones is None:
            return None
        counted = [zone for zone, until in zones if not until or span < until]
        offsets = {_offset_in(zone, begin, length) for zone in counted} - {stated}
        return None if offsets - {_CHANGES} else _CHANGES if offsets else stated


def time_zone(name: str) -> ZoneInfo:
    """Return the zone with this IANA name. Raises ValueError if there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"no time zone {name!r}: use an IANA name such as Europe/Berlin") from error


@lru_cache
def _clock(zone: str | None) -> Clock:
    return Clock(zone)


@lru_cache
def _suggested(label: str) -> list[tuple[ZoneInfo, str]] | None:
    """Return the zones of a label whose offset may differ from it, each until a day; None if unknown."""
    try:
        return [(time_zone(zone), until) for zone, until in _table().get(label, [("?", "")])]
    except ValueError:  # no such label, or no database of time zones on this machine
        return None


@lru_cache
def _table() -> dict[str, list[tuple[str, str]]]:
    table: dict[str, list[tuple[str, str]]] = {}
    for line in _LABELS.strip().splitlines():
        label, *zones = [line[:6].strip() or next(reversed(table)), *line[6:].split()]
        for zone in zones or [""]:
            name, _, until = zone.partition("<")
            table.setdefault(label, []).extend([(name, until)] if name else [])
    return table


@lru_cache
def _standard_offsets(zone: ZoneInfo) -> set[int]:
    """Return the labels, in seconds, that exports from ``zone`` can have: offsets of its standard time."""
    found = set()
    for month in range(12 * 2022, 12 * 2038):
        time = datetime(month // 12, month % 12 + 1, 15, tzinfo=zone)
        offset, summer = time.utcoffset() or timedelta(), time.dst() or timedelta()
        if summer <= timedelta():  # negative in the winter of zones whose standard time is that of the summer
            found.add(int(offset.total_seconds()))
    return found


def _offset_in(zone: ZoneInfo, begin: datetime, length: timedelta) -> int | object:
    """Return the offset in seconds from ``begin`` on by the wall clocks of ``zone``, or _CHANGES."""
    times = [begin + _STEP * step for step in range(-(-length // _STEP))]
    times.append(begin + length - timedelta(seconds=1))
    offsets = {time.replace(tzinfo=zone, fold=fold).utcoffset() for time in times for fold in (0, 1)}
    return int((offsets.pop() or timedelta()).total_seconds()) if len(offsets) == 1 else _CHANGES


def _unix(local: str) -> int:
    """Return the Unix time of a time if that is UTC. Raises ValueError."""
    return int(datetime.fromisoformat(local).replace(tzinfo=UTC).timestamp())


def _seconds(label: str) -> int:
    """Return the seconds of a label ``+05:30``."""
    seconds = int(label[1:3]) * 3600 + int(label[4:6]) * 60
    return -seconds if label[0] == "-" else seconds
