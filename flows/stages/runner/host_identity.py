"""What "the same host" means: where processes can see each other, whatever the host is called."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


@cache
def boot_id() -> str:
    """Return what names the time since the machine's last start; empty where the kernel has no such name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@cache
def machine() -> str:
    """Return what stays the same when this machine starts again: its id, or else its name."""
    try:
        return Path("/etc/machine-id").read_text().strip() or os.uname().nodename
    except OSError:
        return os.uname().nodename


@cache
def place() -> str:
    """Return what is equal for processes that can see each other: the boot id and the pid name space.

    A host's name is not: containers on one machine may share it, and a machine may change it.
    """
    try:
        return f"{boot_id()}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{os.uname().nodename}/{boot_id()}"
