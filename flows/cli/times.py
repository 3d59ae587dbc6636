"""Times and timeouts as options.

Two rules: commands that read the data (search, export, stats, chat) use UTC in their output and options, like
the files and data frames. Commands about runs use the time zone of this machine, and print its name. An
offset in an option overrides both.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

_AGES = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
#: Seconds of PostgreSQL's longest timeout, and its shortest.
_LONGEST, _SHORTEST = 2_147_483, 0.001


def local_time(value: str) -> datetime:
    """Parse ``90m``, ``6h``, ``7d``, or an ISO date or time, by default in the time zone of this machine."""
    return _time(value).astimezone()


def utc_time(value: str) -> datetime:
    """Parse ``90m``, ``6h``, ``7d``, or an ISO date or time, by default in UTC."""
    time = _time(value)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _time(value: str) -> datetime:
    """Return the time without a zone if the value has none. Raises BadParameter."""
    try:
        age = re.fullmatch(r"(\d+)([smhdw])", value)
        time = (
            datetime.now(UTC) - timedelta(**{_AGES[age[2]]: int(age[1])})
            if age
            else datetime.fromisoformat(value)
        )
        time.astimezone()  # the first and the last day that Python supports have no equivalent in other zones
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{value!r}: use 90m, 6h, 7d or a date such as 2026-03-01") from None
    return time


def seconds(value: str | float) -> float:
    """Parse a timeout. Raises BadParameter if it is longer than PostgreSQL allows."""
    try:
        found = float(value)
    except ValueError:
        found = 0
    if not _SHORTEST <= found <= _LONGEST:  # nor is it a number if it is NaN
        raise typer.BadParameter(f"{value!r}: use a number of seconds from {_SHORTEST} to {_LONGEST:,}")
    return found


#: Options that begin a period, and those that end it.
_PERIODS = {"since": "until", "received_from": "received_to", "processed_from": "processed_to"}


def in_order(context: typer.Context, option: typer.CallbackParam, value: Any) -> Any:
    """Return the value of an option. Raises BadParameter if a period ends before it begins."""
    # The options are read in the order given: the later one of a period finds both.
    given = {**context.params, str(option.name): value}
    for begin, end in _PERIODS.items():
        since, until = given.get(begin), given.get(end)
        if since and until and since > until:
            first, last = (f"--{name.replace('_', '-')}" for name in (begin, end))
            raise typer.BadParameter(f"{first} {since} is later than {last} {until}")
    return value


Since = Annotated[
    datetime | None,
    typer.Option(
        parser=local_time,
        metavar="WHEN",
        help="Only runs since this time: 90m, 6h, 7d or 2026-03-01 (local time, unless it has an offset).",
    ),
]
SinceUtc = Annotated[
    datetime | None,
    typer.Option(
        parser=utc_time,
        callback=in_order,
        metavar="WHEN",
        help="Only messages since this time: 90m, 6h, 7d or 2026-03-01 (UTC, unless it has an offset).",
    ),
]
UntilUtc = Annotated[
    datetime | None,
    typer.Option(
        parser=utc_time,
        callback=in_order,
        metavar="WHEN",
        help="Only messages before this time (UTC, unless it has an offset).",
    ),
]
Timeout = Annotated[
    float | None, typer.Option(parser=seconds, metavar="SECONDS", help="End a query that takes longer.")
]
