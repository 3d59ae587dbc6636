"""A running installation for a command, with its Prefect configuration applied."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager

from flows import services
from flows.settings import Settings


@contextmanager
def installed(settings: Settings) -> Iterator[Settings]:
    """Yield the settings of the running installation; if there is none, run one until the block ends."""
    found = services.running(settings)
    if found:
        yield found.settings
        return
    with services.installation(settings) as started:
        apply(started.settings)
        yield started.settings


def apply(settings: Settings, replace_server: bool = False) -> list[str]:
    """Apply limits, blocks, work pool and deployments; return one line per change.

    Raises ServiceFailed if the ledger belongs to another Prefect server, unless this one is to replace it.
    """
    settings.inbox.mkdir(parents=True, exist_ok=True)
    os.environ.update(services.environment(settings))
    # Prefect reads its settings from the environment when it is imported.
    from deployments.apply import apply as apply_all

    return asyncio.run(apply_all(settings, replace_server))
