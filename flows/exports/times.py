"""Read the times of messages: instants in Unix time, and the exporter's local times.

A value that is not a time is noted as mistyped, so that it is kept elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

#: Names of mistyped members by the message's index in the batch.
Mistyped = defaultdict[int, set[str]]

#: In microseconds, as Arrow counts times.
SECOND = 1_000_000
_DAY = 86_400 * SECOND
_YEAR_1 = -719_162 * _DAY
#: Up to the year 9999, which Python, Arrow and PostgreSQL all support.
_YEAR_9999 = 253_402_300_799
#: Greater numbers are milliseconds.
_Seconds = Annotated[int, msgspec.Meta(ge=0, lt=10**11)]
_UNIX = msgspec.json.Decoder(float | None, strict=False)  # a number in quotes
_UNIXES = msgspec.json.Decoder(list[_Seconds | None], strict=False)
_UTC, _LOCAL = pa.timestamp("us", tz="UTC"), pa.timestamp("us")


def read_times(
    key: str, values: list[str | float | None], unix: list[msgspec.Raw], mistyped: Mistyped
) -> tuple[Any, Any]:
    """Return two columns, instants and local times, of the members ``key`` and ``key_unixtime``."""
    instants = _instants(f"{key}_unixtime", unix, mistyped)
    try:
        times = pa.array(values, pa.string()).cast(_LOCAL)
        if (pc.min(times).cast(pa.int64()).as_py() or 0) >= _YEAR_1:
            return instants, times
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        pass
    read = [_time(key, value, mistyped, at) for at, value in enumerate(values)]
    return (
        pc.coalesce(instants, pa.array([instant for instant, _ in read], _UTC)),
        pa.array([local for _, local in read], _LOCAL),
    )


def after_1970(times: Any) -> Any:
    """Return the column without 1970-01-01, which releases before 2021 wrote for what was never edited."""
    return pc.if_else(pc.greater(times.cast(pa.int64()), pa.scalar(2 * _DAY)), times, None)


def unix_time(number: float, earliest: float = 10**9) -> datetime:
    """Return the instant of a Unix time in seconds, or in milliseconds from 10**11 on.

    Raises ValueError before ``earliest`` (2001: such numbers may not be times) and after the year 9999.
    """
    seconds = number / 1000 if number >= 10**11 else number
    if not earliest <= seconds <= _YEAR_9999:
        raise ValueError(number)
    return datetime.fromtimestamp(seconds, UTC)


def _instants(key: str, raws: list[msgspec.Raw], mistyped: Mistyped) -> Any:
    try:
        seconds = _UNIXES.decode(b"[" + b",".join(raws) + b"]")
    except msgspec.DecodeError:
        return pa.array([_instant(key, raw, mistyped, at) for at, raw in enumerate(raws)], _UTC)
    return pa.array(seconds, pa.timestamp("s", tz="UTC")).cast(_UTC)


def _instant(key: str, raw: msgspec.Raw, mistyped: Mistyped, at: int) -> datetime | None:
    try:
        number: float | None = _UNIX.decode(raw)
        return None if number is None else unix_time(number, earliest=0)
    except ValueError:
        mistyped[at].add(key)
        return None


def _time(
    key: str, value: str | float | None, mistyped: Mistyped, at: int
) -> tuple[datetime | None, datetime | None]:
    """Return the instant and the local time of a date that is not written as Telegram Desktop does."""
    if value is None:
        return None, None
    try:
        if not isinstance(value, str) or value.isdecimal():
            return unix_time(float(value)), None
        time = datetime.fromisoformat(value)
        return time.astimezone(UTC) if time.tzinfo else None, time.replace(tzinfo=None)
    except (ValueError, OverflowError):
        mistyped[at].add(key)
        return None, None
