"""Activates the schedule of the inbox deployment when no process checks the inbox any more.

Maintenance does the same (:mod:`flows.operations.schedule`), but only once an hour. The monitor never
deactivates the schedule: a process that checks the inbox does so.
"""

from __future__ import annotations

import logging
import time

import msgspec
import psycopg2

from flows.domain import INBOX_DEPLOYMENT, LOOKED_WITHIN, LOOKING, UNWATCHED
from flows.errors import TdpError
from flows.ledger.named_sql import load
from flows.monitor.health import connect
from flows.reports.prefect_api import request
from flows.settings import Settings

_sql = load("monitor.sql")
#: Seconds between two checks. Two in a row must find that no process checks the inbox: it may be starting.
_INTERVAL = 60.0
_log = logging.getLogger("flows.monitor")


class Schedule(msgspec.Struct, frozen=True):
    """One schedule of a deployment. Those of prefect.yaml have a slug, those created in the UI have none."""

    id: str
    active: bool
    slug: str | None = None


class Deployment(msgspec.Struct, frozen=True):
    """The fields of a deployment that are needed here."""

    id: str
    schedules: list[Schedule]


class ScheduleWatch:
    """Activates the schedule of an installation if no process checks its inbox."""

    def __init__(self, settings: Settings) -> None:
        """Make the next call of :meth:`check` the first check."""
        self._settings = settings
        self._next = 0.0
        self._unwatched = 0

    def check(self) -> None:
        """Check once per interval, if checks of the inbox are enabled; after an error, try again in the next
        interval."""
        if not self._settings.look_seconds or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _INTERVAL
        try:
            with connect(self._settings) as ledger:
                is_watched = _sql.is_inbox_watched(ledger, application=LOOKING, seconds=LOOKED_WITHIN)
            self._unwatched = 0 if is_watched else self._unwatched + 1
            if self._unwatched > 1:
                _activate(self._settings)
        except (psycopg2.Error, TdpError) as error:
            _log.debug("The schedule of the inbox was not checked: %s", error)


def _activate(settings: Settings) -> None:
    """Activate the schedule of prefect.yaml. Raises ServiceFailed if the server does not do it."""
    answer = request(settings, "GET", f"/api/deployments/name/{INBOX_DEPLOYMENT}")
    deployment = msgspec.json.decode(answer, type=Deployment)
    for schedule in deployment.schedules:
        if schedule.slug and not schedule.active:
            path = f"/api/deployments/{deployment.id}/schedules/{schedule.id}"
            request(settings, "PATCH", path, b'{"active": true}')
            _log.warning("%s", UNWATCHED)
