"""The identity of a host: processes on the same host can see each other, whatever its name."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


@cache
def boot_id() -> str:
    """Return the id of the machine's current boot; empty if the kernel has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@cache
def machine() -> str:
    """Return the id of this machine, which a reboot does not change; its name if it has no id."""
    try:
        return Path("/etc/machine-id").read_text().strip() or os.uname().nodename
    except OSError:
        return os.uname().nodename


@cache
def place() -> str:
    """Return a value that is equal for processes that can see each other: boot id and pid name space.

    A host's name is not: containers on one machine may share it, and a machine may change it.
    """
    try:
        return f"{boot_id()}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{os.uname().nodename}/{boot_id()}"
