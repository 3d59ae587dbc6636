"""Disk space: whether the disk of a home is full, and the wait until it no longer is."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable

from flows.services.processes import Child
from flows.settings import Settings

#: Below _FULL bytes PostgreSQL cannot add a file to its write-ahead log (16 MiB), and exits. Services start
#: again from _ENOUGH on: the distance between the two keeps them from exiting again at once.
_FULL, _ENOUGH = 32 << 20, 128 << 20
_POLL_SECONDS = 0.5
#: Seconds until the next attempt if the free space cannot be measured, as with a quota.
_RETRY_SECONDS = 30.0
#: The texts with which a program reports that it could not write.
_REPORTED = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT))


def shortage(settings: Settings, below: int = _FULL) -> str | None:
    """Return the folder of the home whose disk has less than ``below`` bytes free, and how many; or None."""
    for folder in (settings.root, settings.postgres_data, settings.logs):
        if folder.exists() and (free := shutil.disk_usage(folder).free) < below:
            return f"{folder} has {free:,} bytes free"
    return None


def wait_for_space(settings: Settings, child: Child, report: Callable[[str], None]) -> bool:
    """Wait while the disk is full, and ``report`` that; ``child`` is the service that exited.

    Returns False at once if the disk has space and the log of the service does not mention it.
    """
    found = shortage(settings)
    if found is None and not any(reason in child.log_end() for reason in _REPORTED):
        return False
    if found is None:
        report(f"The disk or a quota is full, see {child.log}. Next attempt in {_RETRY_SECONDS:.0f} s.")
        time.sleep(_RETRY_SECONDS)
        return True
    report(f"The disk is full: {found}. Services start again when {_ENOUGH:,} bytes are free.")
    while shortage(settings, _ENOUGH):
        time.sleep(_POLL_SECONDS)
    report("The disk has space again.")
    return True
