"""One installation: its services in order, and the record by which other commands find them."""

from __future__ import annotations

import fcntl
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from flows.errors import ServiceFailed
from flows.ledger.schema_version import migrate
from flows.services import record
from flows.services.postgres import postgres
from flows.services.prefect import client_environment, ensure_guarded, prefect_server, server_url
from flows.services.processes import Child, stop
from flows.settings import Settings

_POLL_SECONDS = 0.5
#: So many ends of services within so many seconds are not an accident any more.
_RESTARTS, _RESTARTS_WITHIN = 5, 60.0

#: Runs a service, ready when it yields, until the block ends; None where there is nothing to run.
Service = Callable[[Settings], AbstractContextManager[Child | None]]


class AlreadyRunning(ServiceFailed):
    """Another process keeps the services of this home up: use them, or stop it first."""


class Installation:
    """Services that run now; ``settings`` name the port they really use."""

    def __init__(self, settings: Settings, stack: ExitStack | None = None) -> None:
        """Describe running services; with a ``stack``, own those that are started."""
        self.settings = settings
        self.children: dict[Service, Child] = {}
        self._stack = stack
        self._stacks: dict[Service, ExitStack] = {}

    @property
    def url(self) -> str:
        """Address of the Prefect UI."""
        return server_url(self.settings)

    def start(self, service: Service) -> None:
        """Start one more service, stopped before those already running; started anew, it keeps its place."""
        if self._stack is None:
            raise AlreadyRunning("These services belong to another process.")
        if service not in self._stacks:
            self._stacks[service] = self._stack.enter_context(ExitStack())
        self._stacks[service].close()
        child = self._stacks[service].enter_context(service(self.settings))
        if child is not None:
            self.children[service] = child

    def wait(self, say: Callable[[str], None]) -> None:
        """Block for ever, starting anew what ends by itself, and ``say`` so.

        Raises :class:`ServiceFailed` when that was in vain ``_RESTARTS`` times within ``_RESTARTS_WITHIN`` s.
        """
        ends: deque[float] = deque(maxlen=_RESTARTS)
        while True:
            for service, child in list(self.children.items()):
                if child.process.poll() is None:
                    continue
                if len(ends) == _RESTARTS and time.monotonic() - ends[0] < _RESTARTS_WITHIN:
                    child.check()
                ends.append(time.monotonic())
                say(f"{child.name} ended (status {child.process.returncode}): starting it anew.")
                try:
                    self.start(service)
                except ServiceFailed as error:  # perhaps what it left behind is not gone yet
                    say(str(error))
            time.sleep(_POLL_SECONDS)


@contextmanager
def installation(settings: Settings) -> Iterator[Installation]:
    """Run PostgreSQL, migrated, and the Prefect server until the block ends; more by ``start``.

    Raises :class:`AlreadyRunning` if another process does so for this home, :class:`ServiceFailed` if a
    service does not come up. What a killed owner left running is stopped first.
    """
    ensure_guarded(settings, settings.server_host)
    settings.root.mkdir(parents=True, mode=0o700, exist_ok=True)
    with _only_one(settings), ExitStack() as stack:
        _stop_leftovers(settings)
        stack.callback(record.path(settings).unlink, missing_ok=True)
        started = Installation(settings, stack)
        started.start(postgres)
        migrate(settings.database)
        started.start(prefect_server)
        ports = {"server_host": settings.server_host, "server_port": settings.server_port}
        record.write(settings, {"url": started.url, "settings": ports})  # from now on others may use it
        yield started


@contextmanager
def only_postgres(settings: Settings) -> Iterator[None]:
    """Run PostgreSQL alone until the block ends. Raises :class:`AlreadyRunning` if the services are up."""
    settings.root.mkdir(parents=True, mode=0o700, exist_ok=True)
    with _only_one(settings):
        _stop_leftovers(settings)
        with postgres(settings):
            yield


def remove(settings: Settings) -> None:
    """Remove a home with everything in it; what a killed owner left running is stopped first.

    Raises :class:`AlreadyRunning` if its services are up.
    """
    if settings.root.exists():
        with _only_one(settings):
            _stop_leftovers(settings)
            shutil.rmtree(settings.root)


def running(settings: Settings) -> Installation | None:
    """Return the installation that runs in this home, whoever started it; None if there is none."""
    found = record.read(settings)
    needed = ["prefect-server", *(["postgres"] if settings.is_embedded else [])]
    services = [found["services"].get(name) for name in needed]
    if "settings" not in found or not all(service and record.find(service) for service in services):
        return None
    return Installation(settings.model_copy(update=found["settings"]))


def environment(settings: Settings) -> dict[str, str]:
    """Variables with which ``prefect …`` and any client talk to the installation of this home."""
    found = running(settings)
    return client_environment(found.settings if found else settings)


@contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    # A lock, not a pid file: it goes with its holder however that ends.
    with (settings.root / "services.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(f"The services of {settings.root} are already running.") from None
        yield


def _stop_leftovers(settings: Settings) -> None:
    services = record.read(settings)["services"]
    # PostgreSQL is what the others stand on, also when it was started anew after them.
    for name in sorted(services, key="postgres".__eq__):
        process = record.find(services[name])
        if process is not None:
            grace = 30 if name == "postgres" else 10  # a request that waits for it can hold the server up
            stop(process, signal.Signals(services[name]["stop_signal"]), grace)
    record.path(settings).unlink(missing_ok=True)
