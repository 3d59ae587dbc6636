"""The HTTP server of /health, /metrics and /timeline.svg, and the watch that reports conditions."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hmac import compare_digest
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import msgspec
import psycopg2
from prometheus_client import CONTENT_TYPE_LATEST

from flows.errors import ServiceFailed
from flows.monitor.failures import OTHERWISE
from flows.monitor.health import Health, Monitor, connect
from flows.monitor.metrics import Metrics
from flows.monitor.schedule_watch import ScheduleWatch
from flows.monitor.usage import Sampler
from flows.reports.prefect_api import request
from flows.reports.timeline import timeline_svg
from flows.reports.visible import make_logs_visible
from flows.services.prefect import ensure_authentication, is_loopback, local_url
from flows.settings import Settings

WATCH_SECONDS = 15.0
#: A worker that was started together with the monitor is online within this time.
_WORKER_START_SECONDS = 60.0
_log = logging.getLogger("flows.monitor")


class MonitorServer(ThreadingHTTPServer):
    """Serves the monitor of one installation; port 0 means any free port."""

    daemon_threads = True

    def __init__(self, settings: Settings, port: int) -> None:
        """Bind; raise ServiceFailed if the port is in use, or if a public address has no auth string."""
        ensure_authentication(settings, settings.monitor_host)
        self.monitor = Monitor(settings)
        self.metrics = Metrics(self.monitor)
        try:
            super().__init__((settings.monitor_host, port), _Handler)
        except OSError as error:
            raise ServiceFailed(
                f"port {port} on {settings.monitor_host} cannot be used ({error}): set TDP_MONITOR_PORT"
            ) from error

    @property
    def url(self) -> str:
        """Address of the monitor."""
        return local_url(self.monitor.settings.monitor_host, self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    server: MonitorServer
    timeout = 10  # seconds; closes connections of silent clients

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        pages = {"/health": self._health, "/metrics": self._metrics, "/timeline.svg": self._timeline}
        page = pages.get(address.path)
        if page is None:
            self.send_error(
                HTTPStatus.NOT_FOUND, explain="Available: /health, /metrics and /timeline.svg?run=ID"
            )
        elif page == self._health or self._is_authorized():
            page(parse_qs(address.query))
        else:
            self.send_response(HTTPStatus.UNAUTHORIZED)
            self.send_header("WWW-Authenticate", 'Basic realm="tdp"')
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _is_authorized(self) -> bool:
        """Return whether the client may see more than the status; on loopback every client may."""
        settings = self.server.monitor.settings
        if settings.authorization is None or is_loopback(settings.monitor_host):
            return True
        given = self.headers.get("Authorization", "")
        return compare_digest(given.encode(), settings.authorization.encode())

    def _health(self, _: dict[str, list[str]]) -> None:
        health = self.server.monitor.health()
        status = HTTPStatus.OK if health.status == "healthy" else HTTPStatus.SERVICE_UNAVAILABLE
        body: Health | dict[str, str] = health if self._is_authorized() else {"status": health.status}
        self._send(status, "application/json", msgspec.json.format(msgspec.json.encode(body), indent=2))

    def _metrics(self, _: dict[str, list[str]]) -> None:
        self._send(HTTPStatus.OK, CONTENT_TYPE_LATEST, self.server.metrics.text())

    def _timeline(self, query: dict[str, list[str]]) -> None:
        try:
            run = UUID(query["run"][0])
        except (KeyError, ValueError):
            self.send_error(HTTPStatus.BAD_REQUEST, explain="Name a flow run: /timeline.svg?run=ID")
            return
        try:
            with connect(self.server.monitor.settings) as ledger:
                picture = timeline_svg(ledger, flow_run_id=run)
        except psycopg2.Error:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, explain="The ledger does not respond")
            return
        self._send(HTTPStatus.OK, "image/svg+xml; charset=utf-8", picture.encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the overridden one
        """Log requests at level DEBUG; errors have log lines of their own."""
        _log.debug(format, *args)


class Watch:
    """Checks the conditions every WATCH_SECONDS, and logs and emits an event when one begins or ends.

    The Prefect events are ``tdp.condition.raised`` and ``tdp.condition.cleared`` of the resource
    ``tdp.condition.<name>``, for use in automations. Failures are only logged: each run that fails reports
    them to Prefect itself.
    """

    def __init__(self, monitor: Monitor, start_seconds: float = 0.0) -> None:
        """Start with no condition raised; the first worker has ``start_seconds`` to come online."""
        self._monitor = monitor
        self._starts_until = time.monotonic() + start_seconds
        self._sampler = Sampler(monitor.settings)
        self._raised: dict[str, str] = {}
        self._schedule = ScheduleWatch(monitor.settings)

    def run(self, stop: threading.Event) -> None:
        """Check until ``stop`` is set."""
        while not stop.is_set():
            self.check()
            self._schedule.check()
            stop.wait(WATCH_SECONDS)

    def check(self) -> None:
        """Check the conditions once."""
        self._monitor.usage = self._sampler.sample()
        health = self._monitor.health()
        found = _raised(health)
        if health.components["worker"].ok:
            self._starts_until = 0.0
        elif time.monotonic() < self._starts_until:
            found.pop("worker_down", None)
        for name in found.keys() - self._raised.keys():
            _log.warning("Raised: %s (%s)", name, found[name])
            self._emit(name, "raised", found[name])
        for name in self._raised.keys() - found.keys():
            _log.warning("Cleared: %s", name)
            self._emit(name, "cleared", self._raised[name])
        self._raised = found

    def _emit(self, name: str, what: str, detail: str) -> None:
        if name in OTHERWISE:
            return
        event = {
            "id": str(uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": f"tdp.condition.{what}",
            "resource": {"prefect.resource.id": f"tdp.condition.{name}", "prefect.resource.name": name},
            "payload": {"detail": detail},
        }
        try:
            request(self._monitor.settings, "POST", "/api/events", msgspec.json.encode([event]))
        except ServiceFailed as error:
            _log.warning("The event was not sent to Prefect: %s", error)


def _raised(health: Health) -> dict[str, str]:
    conditions = {name: c.detail for name, c in health.conditions.items() if c.firing}
    down = {f"{name}_down": c.detail for name, c in health.components.items() if not c.ok}
    down.pop("stages_down", None)  # its causes are conditions with their own names
    return conditions | down


@contextmanager
def monitor(settings: Settings, port: int | None = None) -> Iterator[MonitorServer]:
    """Serve and watch in threads until the block ends; raise ServiceFailed if the port is in use."""
    stop = threading.Event()
    with MonitorServer(settings, settings.monitor_port if port is None else port) as server:
        watch = Watch(server.monitor, _WORKER_START_SECONDS)
        threading.Thread(target=watch.run, args=(stop,), daemon=True).start()
        serving = threading.Thread(target=server.serve_forever, args=(0.1,))
        serving.start()
        try:
            yield server
        finally:
            stop.set()
            server.shutdown()
            serving.join()


def serve(settings: Settings) -> None:
    """Serve on the configured port until SIGTERM or Ctrl-C, and log conditions that begin or end."""
    make_logs_visible()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s")
    stopped = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stopped.set())
    with monitor(settings) as server:
        _log.info("Monitor of %s: %s/health, %s/metrics", settings.root, server.url, server.url)
        stopped.wait()
