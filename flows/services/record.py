"""``services.json`` in the home: the running services, so that other commands find and stop them.

Only the holder of the home's lock writes it. A process is identified by its pid and its start time, so that a
file that survived a kill or a reboot does not match another process.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from flows.settings import Settings


def path(settings: Settings) -> Path:
    """Return the path of the record of a home."""
    return settings.root / "services.json"


def read(settings: Settings) -> dict[str, Any]:
    """Return the record; an empty one if the file does not exist."""
    try:
        record: dict[str, Any] = json.loads(path(settings).read_bytes())
    except FileNotFoundError:
        return {"services": {}}
    return record


def write(settings: Settings, facts: Mapping[str, Any]) -> None:
    """Update entries of the record atomically."""
    new = path(settings).with_suffix(".json.new")
    new.write_text(json.dumps({**read(settings), **facts}, indent=2) + "\n")
    new.replace(path(settings))


def add(
    settings: Settings, name: str, process: psutil.Process, stop_signal: signal.Signals, log: Path
) -> None:
    """Record a service as soon as it starts, so that it can be found after its owner was killed."""
    entry = {
        "pid": process.pid,
        "started": process.create_time(),
        "stop_signal": int(stop_signal),
        "log": str(log),
    }
    write(settings, {"services": read(settings)["services"] | {name: entry}})


def remove(settings: Settings, name: str) -> None:
    """Remove a stopped service from the record; on a full disk its entry stays, and :func:`find` skips it."""
    services = read(settings)["services"]
    services.pop(name, None)
    with suppress(OSError):
        write(settings, {"services": services})


def find(service: Mapping[str, Any]) -> psutil.Process | None:
    """Return the process of a recorded service; None if it no longer runs."""
    try:
        process = psutil.Process(service["pid"])
        # Start times shift slightly when the system clock is set.
        same = abs(process.create_time() - service["started"]) < 2
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None
