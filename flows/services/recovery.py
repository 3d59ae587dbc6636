"""The recovery of dead runs as a child of ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from flows.services.prefect import client_environment
from flows.services.processes import Child, child
from flows.settings import Settings


@contextmanager
def recovery(settings: Settings) -> Iterator[Child]:
    """Run :mod:`flows.recover` until the block ends."""
    command = [sys.executable, "-m", "flows.recover"]
    env = client_environment(settings)
    with child(settings, "recovery", command, env=env, cwd=settings.root, grace=5) as started:
        yield started
