"""Health of an installation: its components, and conditions that need an operator's attention."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

from flows.errors import ServiceFailed
from flows.ledger.connection import Connection, connection
from flows.ledger.locks import INTAKE
from flows.ledger.named_sql import load, records
from flows.ledger.schema_version import check_schema
from flows.monitor import failures
from flows.monitor.bot import BotHealth, read_bot
from flows.monitor.probe import Outcome, Probe, run_all
from flows.monitor.usage import Usage
from flows.reports import text
from flows.reports.prefect_api import request
from flows.services import WORK_POOL
from flows.settings import Settings

sql = load("monitor.sql")

#: Seconds within which the monitor answers a request, whatever component is down.
ANSWER_SECONDS = 3.0
#: Thresholds of the conditions: seconds, waiting batches, and fractions of the machine.
_WAIT_LONG = 600.0
_QUEUE_LONG = 50
_EXTRACT_SLOW = 1200.0
_INTAKE_STANDS = 600.0
_MEMORY_HIGH, _CPU_HIGH = 0.20, 0.60
#: Seconds that the processes of a timed-out run may take to end.
_GRACE = 60.0
#: Free disk space below which the component ``disk`` is not ok.
_FREE_BYTES = 2 << 30
#: Default timeouts in minutes, if the blocks cannot be read from the Prefect server.
_TIMEOUTS = {"extract": 30.0, "convert": 30.0, "store": 60.0}


class Component(msgspec.Struct, frozen=True):
    """A part of the installation that must work; ``seconds`` is how long the check took."""

    ok: bool
    detail: str
    seconds: float = 0.0


class Condition(msgspec.Struct, frozen=True):
    """A condition that operators should know; ``firing`` while it holds."""

    firing: bool
    detail: str


class Health(msgspec.Struct, frozen=True):
    """``status`` is ``healthy`` if all components are ok; conditions do not change it."""

    status: str
    components: dict[str, Component]
    conditions: dict[str, Condition]


class Lane(msgspec.Struct, frozen=True):
    """One stage now, times in seconds; ``average_sec`` is over the runs completed within the last hour."""

    stage: str
    exclusive: bool
    waiting: int
    running: int
    oldest_wait_sec: float
    longest_run_sec: float
    average_sec: float | None
    idle_gap_sec: float


class _Known(NamedTuple):
    """The facts from ledger and blocks: ``standstill`` is in seconds, ``failed`` has the failures by
    condition."""

    lanes: list[Lane]
    timeouts: dict[str, float]
    standstill: float
    bot: BotHealth
    failed: dict[str, str | None]


class Monitor:
    """Checks the health of one installation."""

    def __init__(self, settings: Settings) -> None:
        """Prepare the checks; the first one runs on the first request."""
        self.settings = settings
        self.usage = Usage()
        self.latest = Health("unknown", {}, {})
        self._lanes = Probe(self._read_lanes)
        self._runs = Probe(lambda: failures.of_runs(settings, lambda: connect(settings)))
        self._components: dict[str, Probe[Component]] = {
            "postgres": Probe(self._postgres),
            "prefect_server": Probe(self._prefect_server),
            "worker": Probe(self._worker),
            "disk": Probe(self._disk),
            "stages": Probe(self._stages),
        }

    def health(self) -> Health:
        """Return the health as far as it is known within ANSWER_SECONDS."""
        until = time.monotonic() + ANSWER_SECONDS
        lanes, runs = self._lanes.start(), self._runs.start()
        components = {
            name: _component(outcome) for name, outcome in run_all(self._components, ANSWER_SECONDS).items()
        }
        wait([runs], max(0.0, until - time.monotonic()))
        known = lanes.result().value if lanes.done() else None
        failed = runs.result().value if runs.done() else None
        self.latest = Health(
            status="healthy" if all(component.ok for component in components.values()) else "unhealthy",
            components=components,
            conditions=_conditions(known, failed or {}, self.usage) if known else {},
        )
        return self.latest

    def _postgres(self) -> Component:
        with connect(self.settings) as ledger:
            check_schema(ledger)
            return Component(True, f"answers, schema {sql.schema_version(ledger)}")

    def _prefect_server(self) -> Component:
        request(self.settings, "GET", "/api/ready", timeout=ANSWER_SECONDS)
        return Component(True, "ready")

    def _worker(self) -> Component:
        body = request(self.settings, "POST", f"/api/work_pools/{WORK_POOL}/workers/filter", b"{}")
        online = [worker["name"] for worker in msgspec.json.decode(body) if worker["status"] == "ONLINE"]
        return Component(bool(online), f"{len(online)} online" + "".join(f", {name}" for name in online[:5]))

    def _disk(self) -> Component:
        free = shutil.disk_usage(self.settings.root).free
        return Component(free > _FREE_BYTES, f"{text.size(free)} free for {self.settings.root}")

    def _stages(self) -> Component:
        outcome = self._lanes.start().result()
        if outcome.value is None:
            return Component(False, f"unknown: {outcome.error}")
        lanes = outcome.value.lanes
        stuck = [*_past_timeout(lanes, outcome.value.timeouts), *_idle_gaps(lanes)]
        return Component(not stuck, "; ".join(stuck) or "no stage is stuck")

    def _read_lanes(self) -> _Known:
        with connect(self.settings) as ledger:
            lanes = records(sql.lane_health(ledger), Lane)
            standstill = sql.intake_standstill(ledger, space=INTAKE) or 0.0
            bot, failed = read_bot(ledger), failures.of_ledger(ledger)
        timeouts = {lane.stage: 60 * _timeout_minutes(self.settings, lane.stage) for lane in lanes}
        return _Known(lanes, timeouts, standstill, bot, failed)


@contextmanager
def connect(settings: Settings) -> Iterator[Connection]:
    """Yield a read-only connection whose statements time out after ANSWER_SECONDS."""
    options = f"-c statement_timeout={int(ANSWER_SECONDS * 1000)} -c default_transaction_read_only=on"
    with connection(settings.database, autocommit=True, connect_timeout=3, options=options) as ledger:
        yield ledger


def _component(outcome: Outcome[Component]) -> Component:
    component = outcome.value or Component(False, text.short(str(outcome.error)))
    return msgspec.structs.replace(component, seconds=round(outcome.seconds, 3))


def _timeout_minutes(settings: Settings, stage: str) -> float:
    """Return the stage's timeout from its StageCommand block, else the pipeline block, else the default."""
    try:
        own = _document(settings, "tdp-stage-command", stage).get("timeout_minutes")
        common = _document(settings, "tdp-pipeline", "tdp").get(f"{stage}_timeout_minutes")
    except ServiceFailed:
        own = common = None
    return float(own or common or _TIMEOUTS[stage])


def _document(settings: Settings, slug: str, name: str) -> dict[str, Any]:
    path = f"/api/block_types/slug/{slug}/block_documents/name/{name}"
    data: dict[str, Any] = msgspec.json.decode(request(settings, "GET", path, timeout=1.0))["data"]
    return data


def _conditions(known: _Known, failed_runs: dict[str, str | None], usage: Usage) -> dict[str, Condition]:
    lanes, timeouts, standstill, bot, failed = known
    waits = [
        f"{lane.stage} {text.seconds(lane.oldest_wait_sec)}"
        for lane in lanes
        if lane.oldest_wait_sec > _WAIT_LONG
    ]
    return {
        "stage_waits_long": _condition(
            waits, f"no stage run has waited longer than {text.seconds(_WAIT_LONG)}"
        ),
        "stage_past_timeout": _condition(
            _past_timeout(lanes, timeouts), "all stage runs are within their timeouts"
        ),
        "stage_idle_beside_queue": _condition(
            _idle_gaps(lanes), f"no lane has an idle gap longer than {text.seconds(_WAIT_LONG)}"
        ),
        "intake_stands_still": Condition(
            standstill > _INTAKE_STANDS,
            f"a run has held the intake lock for {text.seconds(standstill)} without receiving a file"
            if standstill > _INTAKE_STANDS
            else "no run holds the intake lock without receiving files",
        ),
        **_extract_conditions(lanes[0]),
        **_failures(failed | failed_runs),
        "bot_silent": _condition(bot.silent(), "no bot is silent"),
        "bot_conflict": _condition(bot.conflicts(), "no other process polls a bot"),
        "uploads_stuck": _condition(bot.stuck(), "no upload has waited for more than 30 minutes"),
        "memory_high": Condition(
            usage.memory_share > _MEMORY_HIGH, f"{usage.memory_share:.0%} of the machine's memory"
        ),
        "cpu_high": Condition(
            usage.cpu_share > _CPU_HIGH, f"{usage.cpu_share:.0%} of all cores, average of 5 minutes"
        ),
    }


def _failures(found: dict[str, str | None]) -> dict[str, Condition]:
    """Return a condition for each kind of failure; one that cannot be checked does not fire."""
    return {
        name: Condition(bool(found.get(name)), found.get(name) or (otherwise if name in found else "unknown"))
        for name, otherwise in failures.OTHERWISE.items()
    }


def _extract_conditions(extract: Lane) -> dict[str, Condition]:
    average = extract.average_sec
    return {
        "extract_queue_long": Condition(
            extract.waiting > _QUEUE_LONG,
            f"{text.count(extract.waiting, 'batch', 'batches')} waiting for extract",
        ),
        "extract_slow": Condition(
            average is not None and average > _EXTRACT_SLOW,
            f"average duration in the last hour: {text.seconds(average)}",
        ),
    }


def _condition(reasons: list[str], otherwise: str) -> Condition:
    return Condition(bool(reasons), "; ".join(reasons) or otherwise)


def _past_timeout(lanes: list[Lane], timeouts: dict[str, float]) -> list[str]:
    return [
        f"{lane.stage} has run for {text.seconds(lane.longest_run_sec)}"
        f", its timeout is {text.seconds(timeouts[lane.stage])}"
        for lane in lanes
        if lane.longest_run_sec > timeouts[lane.stage] + _GRACE
    ]


def _idle_gaps(lanes: list[Lane]) -> list[str]:
    """Describe long idle gaps: a queue is normal if the lane is busy, but a fault if it is free."""
    return [
        f"{lane.stage}: {text.count(lane.waiting, 'batch', 'batches')} waiting"
        f", no run for {text.seconds(lane.idle_gap_sec)}"
        for lane in lanes
        if lane.idle_gap_sec > _WAIT_LONG
    ]
