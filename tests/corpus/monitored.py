"""Stage runs for a monitor to see, and what it answers."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from flows.monitor import MonitorServer


def until_conditions(server: MonitorServer, names: Collection[str], expected: Mapping[str, Any]) -> None:
    """Wait until, of the conditions ``names``, these hold, with these details (None: whatever it says).

    An answer may come from a look that began before the call, for the monitor itself looks all the time.
    """
    deadline = time.monotonic() + 30
    found = None
    while time.monotonic() < deadline:
        conditions = json.loads(get(server, "/health")[2])["conditions"]
        if not conditions:  # not known within the time of an answer
            continue
        found = {name: conditions[name]["detail"] for name in names if conditions[name]["firing"]}
        if found.keys() == expected.keys() and all(
            detail in (None, found[name]) for name, detail in expected.items()
        ):
            return
        time.sleep(0.05)
    raise AssertionError(f"{found} instead of {expected}")


def get(server: MonitorServer, path: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(server.url + path, timeout=30) as answer:  # noqa: S310 - http, ours
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def metrics(server: MonitorServer) -> dict[tuple[str, ...], float]:
    """Return every sample by its name and the values of its labels."""
    families = text_string_to_metric_families(get(server, "/metrics")[2])
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def add_run(
    ledger: Any,
    stage: str,
    queued: float,
    started: float | None = None,
    finished: float | None = None,
    outcome: str = "COMPLETED",
    error: str | None = None,
) -> None:
    """Add a stage run; its times are given in seconds before now."""
    ago = [None if seconds is None else timedelta(seconds=seconds) for seconds in (queued, started, finished)]
    with ledger.cursor() as cursor:
        cursor.execute(
            "INSERT INTO batch_processing (batch_id, file_count) VALUES ('b1', 0) ON CONFLICT DO NOTHING"
        )
        cursor.execute(
            "INSERT INTO stage_runs (batch_id, stage, attempt, queued_at, fenced_at, started_at, finished_at,"
            " outcome, error, host, pid) SELECT 'b1', %s, 1, t - %s, t - %s::interval,"
            " t - %s::interval, t - %s::interval, %s, %s, 'h', 1"
            " FROM clock_timestamp() AS clock (t)",
            (stage, ago[0], ago[1], ago[1], ago[2], None if finished is None else outcome, error),
        )
