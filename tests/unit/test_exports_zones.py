"""Instants of HTML exports: the label is the zone's standard offset all year, so it proves little."""

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest

from flows.exports.zones import Clock


def instant(local: str, label: str | None, zone: str | None = None) -> str | None:
    seconds = Clock(zone).instant(local, label)
    return None if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


@pytest.mark.parametrize(
    ("local", "label", "expected"),
    [
        ("2025-07-14T14:00:00", "+01:00", None),  # Berlin: 12:00, Algiers: 13:00
        ("2025-01-14T14:00:00", "+01:00", "2025-01-14 13:00:00"),
        ("2025-07-14T14:00:00", "+05:30", "2025-07-14 08:30:00"),
        ("2025-07-14T14:00:05", "+03:00", "2025-07-14 11:00:05"),
        ("2014-07-14T14:00:00", "+03:00", None),  # Moscow had UTC+4 until October 2014
        ("2025-12-14T14:00:00", "-08:00", "2025-12-14 22:00:00"),
        ("2025-06-14T14:00:00", "-08:00", None),
        ("2022-12-14T14:00:00", "+02:00", "2022-12-14 12:00:00"),  # Amman's label was +03:00 by then
        ("2025-07-14T14:00:00", "-05:30", None),  # no such zone
        ("2025-07-14T14:00:00", None, None),
        ("1999-01-14T14:00:00", "+05:30", None),
        ("2025-02-31T14:00:00", "+05:30", None),
        ("2025-02-03T25:00:00", "+05:30", None),
    ],
)  # fmt: skip
def test_an_instant_is_derived_only_if_all_zones_of_the_label_agree(
    local: str, label: str | None, expected: str | None
) -> None:
    assert instant(local, label) == expected


@pytest.mark.parametrize(
    ("local", "label", "expected"),
    [
        ("2025-07-14T14:00:00", "+01:00", "2025-07-14 12:00:00"),
        ("2025-07-14T14:00:00", None, "2025-07-14 12:00:00"),
        ("2025-10-26T02:30:00", "+01:00", None),  # occurs twice
        ("2025-03-30T02:30:00", "+01:00", None),  # does not occur
        ("2025-07-14T14:00:00", "+05:30", "2025-07-14 08:30:00"),  # exported elsewhere
        ("2025-07-14T14:00:00", "-08:00", None),
        ("2025-10-26T00:30:00", "+01:00", "2025-10-25 22:30:00"),
        ("2025-10-26T03:30:00", "+01:00", "2025-10-26 02:30:00"),
    ],
)
def test_the_named_zone_counts_where_the_label_agrees(
    local: str, label: str | None, expected: str | None
) -> None:
    assert instant(local, label, "Europe/Berlin") == expected


def test_no_instant_is_wrong_wherever_the_export_was_made() -> None:
    """Random times of all zones with the label that Telegram Desktop would have written."""
    chance, clock, derived = random.Random(5), Clock(), 0
    for name in sorted(available_timezones() - {"Europe/Dublin", "Eire", "localtime", "Factory"}):
        zone = ZoneInfo(name)
        for _ in range(40):
            exported = datetime.fromtimestamp(chance.uniform(1_646_100_000, 1_790_000_000), UTC)
            sent = min(exported, datetime.fromtimestamp(chance.uniform(1_376_500_000, 1_790_000_000), UTC))
            local = sent.astimezone(zone).replace(microsecond=0)
            earlier = (exported.astimezone(zone) - timedelta(days=15 * back) for back in range(20))
            standard = next((time.utcoffset() for time in earlier if not time.dst()), None) or timedelta()
            minutes = round(standard.total_seconds() / 60)
            label = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
            if (found := clock.instant(f"{local:%Y-%m-%dT%H:%M:%S}", label)) is not None:
                derived += 1
                assert found == int(sent.timestamp()), (name, local, label)
    assert derived > 5_000


@pytest.mark.parametrize("name", ["Mars/Base", "../etc/passwd", "\0"])
def test_an_unknown_zone_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="IANA name such as Europe/Berlin"):
        Clock(name)
