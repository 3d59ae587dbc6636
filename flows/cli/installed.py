"""A running installation for a command, with its Prefect configuration applied."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flows import services
from flows.settings import Settings

APPLYING = "Applying limits, blocks, deployments and automations"


@contextmanager
def installed(settings: Settings, report: Callable[[str], None]) -> Iterator[Settings]:
    """Yield the settings of the running installation; if there is none, run one until the block ends.

    Each service that is started is reported to ``report``.
    """
    found = services.running(settings)
    if found:
        yield found.settings
        return
    with services.installation(settings, report=report) as started:
        report(APPLYING)
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
