"""Recovery and the monitor as child processes of `tdp up`."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from flows.errors import ServiceFailed
from flows.services.prefect import client_environment, is_free, local_url
from flows.services.processes import Child, child
from flows.settings import Settings

_READY_SECONDS = 60


def monitor_url(settings: Settings) -> str:
    """Address of the monitor."""
    return local_url(settings.monitor_host, settings.monitor_port)


@contextmanager
def monitoring(settings: Settings) -> Iterator[Child]:
    """Run :mod:`flows.monitor` until the block ends, ready when this yields. Raises ServiceFailed."""
    if not is_free(settings.monitor_host, settings.monitor_port):
        raise ServiceFailed(f"Port {settings.monitor_port} is taken: set TDP_MONITOR_PORT to a free one.")
    command = [sys.executable, "-m", "flows.monitor"]
    env = client_environment(settings)
    with child(settings, "monitor", command, env=env, cwd=settings.root, grace=5) as started:
        started.wait_ready(lambda: _answers(settings), _READY_SECONDS)
        yield started


@contextmanager
def recovery(settings: Settings) -> Iterator[Child]:
    """Run :mod:`flows.operations.recovery` until the block ends."""
    command = [sys.executable, "-m", "flows.operations.recovery"]
    env = client_environment(settings)
    with child(settings, "recovery", command, env=env, cwd=settings.root, grace=5) as started:
        yield started


def _answers(settings: Settings) -> bool:
    try:
        # http to our own loopback port
        with urllib.request.urlopen(f"{monitor_url(settings)}/metrics", timeout=5):  # noqa: S310
            return True
    except urllib.error.HTTPError:
        return True  # it asks who we are, and so it answers
    except OSError:
        return False
