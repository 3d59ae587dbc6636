"""Homes of installations, and the processes that use one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import psutil

from flows import services
from flows.settings import Settings


def new_home(home: Path) -> Settings:
    """Return settings with this home and free ports."""
    return Settings(home=home, server_port=services.free_port(), monitor_port=services.free_port())


def processes_of(settings: Settings) -> list[str]:
    """Return the command lines of processes with the home in their command line or environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            home = process.environ().get("TDP_HOME")
            if str(settings.root) in command or (home == str(settings.root) and process.pid != os.getpid()):
                found.append(command)
    return found
