"""One installation: its services in order, and the record with which other commands find them."""

from __future__ import annotations

import fcntl
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress

from flows.errors import ServiceFailed
from flows.ledger.schema_version import migrate
from flows.services import disk, record
from flows.services.postgres import postgres
from flows.services.prefect import (
    client_environment,
    ensure_authentication,
    ensure_free,
    prefect_server,
    server_url,
)
from flows.services.processes import Child, stop
from flows.services.reminders import Step, reminders
from flows.services.server_lock import ServerLock
from flows.settings import Settings

_POLL_SECONDS = 0.5
#: More restarts of services than this within so many seconds are treated as a permanent failure.
_MAX_RESTARTS, _RESTART_WINDOW = 5, 60.0
#: Seconds between two restarts of an optional service.
_OPTIONAL_PAUSE = 2.0
#: A service that listens on one of these uses its port on every address.
_ALL_ADDRESSES = {"0.0.0.0", "::"}  # noqa: S104 - compared only

#: Runs a service until the block ends and yields once it is ready; yields None if there is no process to run.
Service = Callable[[Settings], AbstractContextManager[Child | None]]


def _unreported(_: str) -> None:
    """Report nothing."""


class AlreadyRunning(ServiceFailed):
    """Another process runs the services of this home: use them, or stop that process first."""


class Installation:
    """The running services of one home; ``settings`` have the ports that they actually use."""

    def __init__(self, settings: Settings, stack: ExitStack | None = None) -> None:
        """Describe running services; with a ``stack``, services can be started and end with it."""
        self.settings = settings
        self.children: dict[Service, Child] = {}
        self._stack = stack
        self._stacks: dict[Service, ExitStack] = {}
        #: When each service whose failure does not end the others may be restarted.
        self._optional: dict[Service, float] = {}
        #: Held while this process runs the Prefect server.
        self.lock: ServerLock | None = None

    @property
    def url(self) -> str:
        """The address of the Prefect UI."""
        return server_url(self.settings)

    def start(self, service: Service, *, is_optional: bool = False) -> None:
        """Start one more service, or restart it. It is stopped before the services that were started earlier.

        A restarted service keeps its position in that order. An optional one is restarted however often it
        exits. Raises :class:`AlreadyRunning`.
        """
        if is_optional or service in self._optional:
            self._optional[service] = time.monotonic() + _OPTIONAL_PAUSE
        if self._stack is None:
            raise AlreadyRunning("Another process runs these services.")
        if service not in self._stacks:
            self._stacks[service] = self._stack.enter_context(ExitStack())
        self._stacks[service].close()
        child = self._stacks[service].enter_context(service(self.settings))
        if child is not None:
            self.children[service] = child

    def wait(self, report: Callable[[str], None]) -> None:
        """Block until interrupted; restart services that exit, and ``report`` each restart.

        Services that exit because the disk is full are restarted as soon as it has space.
        Raises :class:`ServiceFailed` after ``_MAX_RESTARTS`` other restarts in ``_RESTART_WINDOW`` seconds.
        """

        def try_report(line: str) -> None:
            with suppress(OSError):  # the output may be a file on the full disk
                report(line)

        ends: deque[float] = deque(maxlen=_MAX_RESTARTS)
        while True:
            for service, child in list(self.children.items()):
                if child.process.poll() is not None:
                    self._restart(service, child, ends, try_report)
            if self.lock:
                self.lock.keep()
            time.sleep(_POLL_SECONDS)

    def _restart(
        self, service: Service, child: Child, ends: deque[float], report: Callable[[str], None]
    ) -> None:
        if service in self._optional:
            if time.monotonic() < self._optional[service]:
                return
        elif not disk.wait_for_space(self.settings, child, report):
            if len(ends) == _MAX_RESTARTS and time.monotonic() - ends[0] < _RESTART_WINDOW:
                child.check()
            ends.append(time.monotonic())
        report(f"{child.name} exited with status {child.process.returncode}; restarting it.")
        try:
            self.start(service)
        except (ServiceFailed, OSError) as error:  # for example, its orphaned child still uses the port
            report(str(error))


@contextmanager
def installation(
    settings: Settings, with_monitor: bool = False, report: Callable[[str], None] = _unreported
) -> Iterator[Installation]:
    """Run PostgreSQL, migrated, and the Prefect server until the block ends; ``start`` adds services.

    Each step of the start is reported with one line when it begins, and again while it lasts.

    Services that a killed owner left running are stopped first. Then the port of the server must be free, and
    that of the monitor if it is to be started too. Raises :class:`AlreadyRunning` if another
    process runs the services of this home, :class:`ServiceFailed` if a service does not start, or if the
    Prefect server of another home uses the same ledger.
    """
    ensure_authentication(settings, settings.server_host)
    if not settings.root.exists():  # a command in a wrong folder must not create a home
        _ensure_free_ports(settings, with_monitor)
    settings.root.mkdir(parents=True, mode=0o700, exist_ok=True)
    with _home_lock(settings), ExitStack() as stack:
        with reminders(report) as step:
            _stop_leftovers(settings, step)
            _ensure_free_ports(settings, with_monitor)
            stack.callback(record.path(settings).unlink, missing_ok=True)
            started = Installation(settings, stack)
            _start_server(started, stack, step)
        ports = {"server_host": settings.server_host, "server_port": settings.server_port}
        record.write(settings, {"url": started.url, "settings": ports})  # now other commands may use it
        yield started


def _start_server(started: Installation, stack: ExitStack, step: Step) -> None:
    """Start PostgreSQL; then, with the schema migrated and the lock of the ledger acquired, the Prefect
    server."""
    settings = started.settings
    if settings.is_embedded:
        step("Starting PostgreSQL", settings.logs / "postgres.log")
    started.start(postgres)
    step("Checking the schema of the ledger")
    migrate(settings.database)
    started.lock = ServerLock(settings)
    stack.callback(started.lock.release)
    started.lock.acquire()
    step("Starting the Prefect server", settings.logs / "prefect-server.log")
    started.start(prefect_server)


def _ensure_free_ports(settings: Settings, with_monitor: bool) -> None:
    hosts = {settings.server_host, settings.monitor_host}
    is_same = settings.server_port == settings.monitor_port != 0
    if with_monitor and is_same and (len(hosts) == 1 or hosts & _ALL_ADDRESSES):
        raise ServiceFailed(
            f"TDP_SERVER_PORT and TDP_MONITOR_PORT are both {settings.server_port}."
            " Set one of them to another port."
        )
    ensure_free(settings.server_host, settings.server_port, "TDP_SERVER_PORT")
    if with_monitor:
        ensure_free(settings.monitor_host, settings.monitor_port, "TDP_MONITOR_PORT")


@contextmanager
def only_postgres(settings: Settings) -> Iterator[None]:
    """Run only PostgreSQL until the block ends. Raises :class:`AlreadyRunning` if all services run."""
    settings.root.mkdir(parents=True, mode=0o700, exist_ok=True)
    with _home_lock(settings):
        _stop_leftovers(settings)
        with postgres(settings):
            yield


def remove(settings: Settings) -> None:
    """Remove a home with all its contents; services that a killed owner left running are stopped first.

    Raises :class:`AlreadyRunning` if its services are running.
    """
    if settings.root.exists():
        with _home_lock(settings):
            _stop_leftovers(settings)
            shutil.rmtree(settings.root)


def running(settings: Settings) -> Installation | None:
    """Return the running installation of this home, started by any process; None if there is none."""
    found = record.read(settings)
    needed = ["prefect-server", *(["postgres"] if settings.is_embedded else [])]
    services = [found["services"].get(name) for name in needed]
    if "settings" not in found or not all(service and record.find(service) for service in services):
        return None
    return Installation(settings.model_copy(update=found["settings"]))


def current(settings: Settings) -> Settings:
    """Return the settings with the ports of the installation of this home, if it runs."""
    found = running(settings)
    return found.settings if found else settings


def ensure_ledger(settings: Settings) -> Settings:
    """Return the ``current`` settings.

    Raises :class:`ServiceFailed` if the ledger is that of this home and its PostgreSQL does not run.
    """
    service = record.read(settings)["services"].get("postgres")
    if settings.is_embedded and not (service and record.find(service)):
        raise ServiceFailed(
            f"No services are running in {settings.root}. Start them with `tdp up`, or set TDP_HOME to the "
            "home of an installation that runs."
        )
    return current(settings)


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment variables with which clients connect to the installation of this home."""
    return client_environment(current(settings))


@contextmanager
def _home_lock(settings: Settings) -> Iterator[None]:
    # A lock, not a pid file: the kernel releases it however its holder ends.
    with (settings.root / "services.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(f"The services of {settings.root} are already running.") from None
        yield


def _stop_leftovers(settings: Settings, report: Callable[[str], None] = _unreported) -> None:
    services = record.read(settings)["services"]
    # PostgreSQL is stopped last, even if it was restarted after the services that depend on it.
    for name in sorted(services, key="postgres".__eq__):
        process = record.find(services[name])
        if process is not None:
            report(f"Stopping the {name} that an earlier process left running")
            grace = 30 if name == "postgres" else 10  # a pending request can delay its shutdown
            stop(process, signal.Signals(services[name]["stop_signal"]), grace)
    record.path(settings).unlink(missing_ok=True)
