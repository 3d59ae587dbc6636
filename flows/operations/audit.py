"""The audit: no two exclusive runs ever overlapped, nothing was lost, every lock and slot has its holder.

Facts that change quickly (which runs are alive, which hold a slot) are read several times; a run that begins
or ends between two readings does not count as a violation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil

from flows.domain import EXCLUSIVE_STAGES
from flows.errors import ServiceFailed
from flows.ledger.connection import Connection
from flows.ledger.locks import FENCE
from flows.ledger.named_sql import load
from flows.reports.prefect_api import slots
from flows.settings import Settings
from flows.stages.runner.host_identity import place

_sql = load("verify.sql")

_LOOKS, _PAUSE_SECONDS = 3, 0.7

Row = dict[str, Any]
#: Runs a named query with its values; returns its rows.
Query = Callable[..., list[Row]]


class Check(msgspec.Struct, frozen=True):
    """A rule, the rows that break it, and why it could not be checked if it could not."""

    name: str
    rule: str
    offending: list[Row] = []
    unchecked: str | None = None

    @property
    def is_kept(self) -> bool:
        """Whether it was checked and nothing breaks it."""
        return not self.offending and self.unchecked is None


def verify(connection: Connection, settings: Settings, *, since: datetime | None = None) -> list[Check]:
    """Return every check, kept or not; ``since`` bounds what is read of the past (default: all of it).

    ``connection`` has to be in autocommit: readings at different moments must not come from one snapshot.
    """

    def rows(name: str, **values: Any) -> list[Row]:
        return [dict(row) for row in getattr(_sql, name)(connection, **values)]

    return [*_of_runs(rows, since), *_of_holders(rows, settings), *_of_files(rows, settings, since)]


def _of_runs(rows: Query, since: datetime | None) -> list[Check]:
    return [
        Check(
            "overlaps",
            "no two runs of an exclusive stage ever worked at the same time",
            rows("overlapping_runs", since=since),
        ),
        Check(
            "order",
            "every run was queued, fenced, started and finished in this order",
            rows("disordered_runs", since=since),
        ),
    ]


def _of_holders(rows: Query, settings: Settings) -> list[Check]:
    return [
        Check(
            "owners",
            "every unfinished run holds its fence, or waits for a batch that a live run owns",
            _lasting(lambda: rows("unowned_runs", fence_space=FENCE)),
        ),
        Check(
            "processes",
            "every unfinished run of this host has a living process",
            _lasting(lambda: _dead(rows("unfinished_runs_of_place", place=place()))),
        ),
        Check(
            "alone",
            "no exclusive stage has two processes on this host",
            _lasting(lambda: _crowds(settings)),
        ),
        _by_server(
            "slots",
            "the Prefect server counts as many slots as runs hold, and exclusive limits are 1",
            lambda: _lasting(lambda: _miscounted(settings, rows("slots_in_use"))),
        ),
    ]


def _of_files(rows: Query, settings: Settings, since: datetime | None) -> list[Check]:
    work = [path.name for path in settings.work.iterdir()] if settings.work.is_dir() else []
    return [
        Check(
            "files",
            "every file received is stored, quarantined or waiting, once",
            rows("unaccounted_files"),
        ),
        Check(
            "sources",
            "every source ever received has its bytes in sources/, or was purged or dropped",
            _lasting(lambda: _without_bytes(rows("unpurged_sources"))),
        ),
        Check(
            "stages",
            "every completed batch has completed every stage",
            rows("half_done_batches", since=since),
        ),
        Check(
            "work",
            "every work directory belongs to a batch",
            rows("unknown_batches", batch_ids=work),
        ),
    ]


def _lasting(look: Callable[[], Iterable[Row]]) -> list[Row]:
    found = list(look())
    for _ in range(_LOOKS - 1):
        if found:
            time.sleep(_PAUSE_SECONDS)
            found = [row for row in look() if row in found]
    return found


def _dead(runs: Iterable[Row]) -> list[Row]:
    return [run for run in runs if not psutil.pid_exists(run["pid"])]


def _without_bytes(sources: Iterable[Row]) -> list[Row]:
    """Return the sources whose stored file is missing or has another size."""
    found = []
    for source in sources:
        path, size = Path(source["stored_path"]), source.pop("size_bytes")
        try:
            on_disk: int | None = path.stat().st_size
        except OSError:
            on_disk = None
        if on_disk != size:
            reason = "missing" if on_disk is None else f"has {on_disk} of {size} bytes"
            found.append(source | {"reason": f"{reason}: copy the file into the inbox again"})
    return found


def _crowds(settings: Settings) -> list[Row]:
    """Return the processes of each built-in exclusive stage that has more than one for this home."""
    work, crowds = str(settings.work), []
    processes = [process.info for process in psutil.process_iter(["pid", "ppid", "cmdline"])]
    for stage in EXCLUSIVE_STAGES:
        of_stage = {info["pid"]: info for info in processes if _is_of(stage, work, info["cmdline"] or [])}
        # A reader that the stage has forked has the same command line: only heads of trees are counted.
        found = [
            {"stage": stage, "pid": pid, "command": " ".join(info["cmdline"])}
            for pid, info in of_stage.items()
            if info["ppid"] not in of_stage
        ]
        crowds += found if len(found) > 1 else []
    return crowds


def _is_of(stage: str, work: str, words: list[str]) -> bool:
    return f"flows.stages.{stage}" in words and any(word.startswith(work) for word in words)


def _by_server(name: str, rule: str, look: Callable[[], list[Row]]) -> Check:
    """Return a check that needs the Prefect server's answers."""
    try:
        return Check(name, rule, look())
    except ServiceFailed as error:
        return Check(name, rule, unchecked=str(error))


def _miscounted(settings: Settings, lanes: list[Row]) -> list[Row]:
    found = slots(settings)
    wrong = []
    for lane in lanes:
        limit = found.get(lane["stage"])
        if limit is None or not limit.active:
            wrong.append({"stage": lane["stage"], "reason": "no active limit: run `tdp apply`"})
        elif lane["exclusive"] and limit.limit != 1:
            wrong.append({"stage": lane["stage"], "reason": f"its limit is {limit.limit}: run `tdp apply`"})
        elif (surplus := limit.active_slots - lane["running_or_kept"]) > 0:
            reason = f"{surplus} more of its slots are taken than runs hold a lease"
            wrong.append({"stage": lane["stage"], "reason": reason})
        elif (missing := lane["running"] - limit.active_slots) > 0:
            reason = f"{missing} fewer of its slots are taken than runs hold a lease"
            wrong.append({"stage": lane["stage"], "reason": reason})
    return wrong
