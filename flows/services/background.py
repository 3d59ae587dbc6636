"""Recovery, the bot and the monitor as child processes of `tdp up`."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from flows.services.prefect import client_environment, ensure_free, local_url
from flows.services.processes import Child, child, python
from flows.settings import Settings

_READY_SECONDS = 60


def monitor_url(settings: Settings) -> str:
    """Return the address of the monitor."""
    return local_url(settings.monitor_host, settings.monitor_port)


@contextmanager
def monitoring(settings: Settings) -> Iterator[Child]:
    """Run :mod:`flows.monitor` until the block ends; yield once it is ready. Raises ServiceFailed."""
    ensure_free(settings.monitor_host, settings.monitor_port, "TDP_MONITOR_PORT")
    command = python("flows.monitor")
    env = client_environment(settings)
    with child(settings, "monitor", command, env=env, cwd=settings.root, grace=5) as started:
        started.wait_ready(lambda: _answers(settings), _READY_SECONDS)
        yield started


@contextmanager
def recovery(settings: Settings) -> Iterator[Child]:
    """Run :mod:`flows.operations.recovery` until the block ends."""
    command = python("flows.operations.recovery")
    env = client_environment(settings)
    with child(settings, "recovery", command, env=env, cwd=settings.root, grace=5) as started:
        yield started


@contextmanager
def bot(settings: Settings) -> Iterator[Child]:
    """Run :mod:`flows.bot` until the block ends. Its token is in its environment, or in the block."""
    command = python("flows.bot")
    token = settings.bot_token.get_secret_value() if settings.bot_token else ""
    env = client_environment(settings) | {"TDP_BOT_TOKEN": token}
    with child(settings, "bot", command, env=env, cwd=settings.root, grace=5) as started:
        yield started


def _answers(settings: Settings) -> bool:
    try:
        with urllib.request.urlopen(f"{monitor_url(settings)}/metrics", timeout=5):  # noqa: S310 - http, loopback
            return True
    except urllib.error.HTTPError:
        return True  # a refusal for lack of authentication is a response, too
    except OSError:
        return False
