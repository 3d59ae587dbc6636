"""``services.json`` in the home: which services run, so that other commands find and stop them.

Only the owner of the home's lock writes it. A process is known by its pid and its start time, so that a
file left behind by a kill or a reboot fools nobody.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from flows.settings import Settings


def path(settings: Settings) -> Path:
    """Return where the record of a home is."""
    return settings.root / "services.json"


def read(settings: Settings) -> dict[str, Any]:
    """Return the record; an empty one if there is none."""
    try:
        record: dict[str, Any] = json.loads(path(settings).read_bytes())
    except FileNotFoundError:
        return {"services": {}}
    return record


def write(settings: Settings, facts: Mapping[str, Any]) -> None:
    """Change facts of the record, in one step for every reader."""
    new = path(settings).with_suffix(".json.new")
    new.write_text(json.dumps({**read(settings), **facts}, indent=2) + "\n")
    new.replace(path(settings))


def add(
    settings: Settings, name: str, process: psutil.Process, stop_signal: signal.Signals, log: Path
) -> None:
    """Record a service from the moment it starts, so that a kill of its owner leaves nothing unknown."""
    entry = {
        "pid": process.pid,
        "started": process.create_time(),
        "stop_signal": int(stop_signal),
        "log": str(log),
    }
    write(settings, {"services": read(settings)["services"] | {name: entry}})


def remove(settings: Settings, name: str) -> None:
    """Forget a service that was stopped."""
    services = read(settings)["services"]
    services.pop(name, None)
    write(settings, {"services": services})


def find(service: Mapping[str, Any]) -> psutil.Process | None:
    """Return the process of a recorded service, if it still runs."""
    try:
        process = psutil.Process(service["pid"])
        # The clock that start times are told by moves a little when the system's clock is set.
        same = abs(process.create_time() - service["started"]) < 2
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None
