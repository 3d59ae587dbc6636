"""Is it healthy: components that answer or not, and conditions an operator should know by name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from flows.errors import ServiceFailed
from flows.ledger.connection import Connection, connection
from flows.ledger.named_sql import load, records
from flows.ledger.schema_version import check_schema
from flows.monitor.probe import Answer, Probe, ask_all
from flows.monitor.usage import Usage
from flows.reports import text
from flows.reports.prefect_api import ask
from flows.services import WORK_POOL
from flows.settings import Settings

sql = load("monitor.sql")

ANSWER_SECONDS = 3.0
_WAIT_LONG = 600.0
_QUEUE_LONG = 50
_EXTRACT_SLOW = 1200.0
_MEMORY_HIGH, _CPU_HIGH = 0.20, 0.60
#: What a run may take beyond its time-out until its processes are really gone.
_GRACE = 60.0
_FREE_BYTES = 2 << 30
#: Minutes, where the Prefect server cannot say what operators have set.
_TIMEOUTS = {"extract": 30.0, "convert": 30.0, "store": 60.0}


class Component(msgspec.Struct, frozen=True):
    """Something that must be there; ``seconds`` is what it took to find out."""

    ok: bool
    detail: str
    seconds: float = 0.0


class Condition(msgspec.Struct, frozen=True):
    """Something that operators should look at; ``firing`` while it holds."""

    firing: bool
    detail: str


class Health(msgspec.Struct, frozen=True):
    """``healthy`` if every component is ok; conditions are told, whatever the components say."""

    status: str
    components: dict[str, Component]
    conditions: dict[str, Condition]


class Lane(msgspec.Struct, frozen=True):
    """One stage at this moment, in seconds; ``average_sec`` is of runs completed in the last hour."""

    stage: str
    exclusive: bool
    waiting: int
    running: int
    oldest_wait_sec: float
    longest_run_sec: float
    average_sec: float | None
    idle_beside_queue_sec: float


class Monitor:
    """Looks at one installation."""

    def __init__(self, settings: Settings) -> None:
        """Look at nothing yet."""
        self.settings = settings
        self.usage = Usage()
        self.latest = Health("unknown", {}, {})
        self._lanes = Probe(self._read_lanes)
        self._components: dict[str, Probe[Component]] = {
            "postgres": Probe(self._postgres),
            "prefect_server": Probe(self._prefect_server),
            "worker": Probe(self._worker),
            "disk": Probe(self._disk),
            "stages": Probe(self._stages),
        }

    def health(self) -> Health:
        """Return what is known within ANSWER_SECONDS, whatever is dead."""
        lanes = self._lanes.ask()
        components = {
            name: _component(answer) for name, answer in ask_all(self._components, ANSWER_SECONDS).items()
        }
        known = lanes.result().value if lanes.done() else None
        self.latest = Health(
            status="healthy" if all(component.ok for component in components.values()) else "unhealthy",
            components=components,
            conditions=_conditions(*known, self.usage) if known else {},
        )
        return self.latest

    def _postgres(self) -> Component:
        with connect(self.settings) as ledger:
            check_schema(ledger)
            return Component(True, f"answers, schema {sql.schema_version(ledger)}")

    def _prefect_server(self) -> Component:
        ask(self.settings, "GET", "/api/ready", timeout=ANSWER_SECONDS)
        return Component(True, "ready")

    def _worker(self) -> Component:
        body = ask(self.settings, "POST", f"/api/work_pools/{WORK_POOL}/workers/filter", b"{}")
        online = [worker["name"] for worker in msgspec.json.decode(body) if worker["status"] == "ONLINE"]
        return Component(bool(online), f"{len(online)} online" + "".join(f", {name}" for name in online[:5]))

    def _disk(self) -> Component:
        free = shutil.disk_usage(self.settings.root).free
        return Component(free > _FREE_BYTES, f"{text.size(free)} free for {self.settings.root}")

    def _stages(self) -> Component:
        answer = self._lanes.ask().result()
        if answer.value is None:
            return Component(False, f"unknown: {answer.error}")
        lanes, timeouts = answer.value
        stuck = [*_past_timeout(lanes, timeouts), *_idle_beside_queue(lanes)]
        return Component(not stuck, "; ".join(stuck) or "none is stuck")

    def _read_lanes(self) -> tuple[list[Lane], dict[str, float]]:
        with connect(self.settings) as ledger:
            lanes = records(sql.lane_health(ledger), Lane)
        return lanes, {lane.stage: 60 * _timeout_minutes(self.settings, lane.stage) for lane in lanes}


@contextmanager
def connect(settings: Settings) -> Iterator[Connection]:
    """Yield a read-only session that PostgreSQL itself ends when a statement takes too long."""
    options = f"-c statement_timeout={int(ANSWER_SECONDS * 1000)} -c default_transaction_read_only=on"
    with connection(settings.database, autocommit=True, connect_timeout=3, options=options) as ledger:
        yield ledger


def _component(answer: Answer[Component]) -> Component:
    found = answer.value or Component(False, text.short(str(answer.error)))
    return msgspec.structs.replace(found, seconds=round(answer.seconds, 3))


def _timeout_minutes(settings: Settings, stage: str) -> float:
    """Return the stage's time-out as its StageCommand document has it, else as the pipeline's."""
    try:
        own = _document(settings, "tdp-stage-command", stage).get("timeout_minutes")
        common = _document(settings, "tdp-pipeline", "tdp").get(f"{stage}_timeout_minutes")
    except ServiceFailed:
        own = common = None
    return float(own or common or _TIMEOUTS[stage])


def _document(settings: Settings, slug: str, name: str) -> dict[str, Any]:
    path = f"/api/block_types/slug/{slug}/block_documents/name/{name}"
    data: dict[str, Any] = msgspec.json.decode(ask(settings, "GET", path, timeout=1.0))["data"]
    return data


def _conditions(lanes: list[Lane], timeouts: dict[str, float], usage: Usage) -> dict[str, Condition]:
    waits = [
        f"{lane.stage} {text.seconds(lane.oldest_wait_sec)}"
        for lane in lanes
        if lane.oldest_wait_sec > _WAIT_LONG
    ]
    extract = lanes[0]
    average = extract.average_sec
    return {
        "stage_waits_long": _condition(waits, f"nothing waits longer than {text.seconds(_WAIT_LONG)}"),
        "stage_past_timeout": _condition(_past_timeout(lanes, timeouts), "every run is within its time-out"),
        "stage_idle_beside_queue": _condition(
            _idle_beside_queue(lanes), "no lane stands idle beside a queue"
        ),
        "extract_queue_long": Condition(extract.waiting > _QUEUE_LONG, f"{extract.waiting} batches wait"),
        "extract_slow": Condition(
            average is not None and average > _EXTRACT_SLOW,
            f"average of the last hour: {text.seconds(average)}",
        ),
        "memory_high": Condition(
            usage.memory_share > _MEMORY_HIGH, f"{usage.memory_share:.0%} of the machine"
        ),
        "cpu_high": Condition(usage.cpu_share > _CPU_HIGH, f"{usage.cpu_share:.0%} of all cores"),
    }


def _condition(reasons: list[str], otherwise: str) -> Condition:
    return Condition(bool(reasons), "; ".join(reasons) or otherwise)


def _past_timeout(lanes: list[Lane], timeouts: dict[str, float]) -> list[str]:
    return [
        f"{lane.stage} runs for {text.seconds(lane.longest_run_sec)}"
        f" with a time-out of {text.seconds(timeouts[lane.stage])}"
        for lane in lanes
        if lane.longest_run_sec > timeouts[lane.stage] + _GRACE
    ]


def _idle_beside_queue(lanes: list[Lane]) -> list[str]:
    """A long queue before a busy lane is work; before an idle one it is a fault."""
    return [
        f"{lane.stage}: {lane.waiting} wait, nothing has run for {text.seconds(lane.idle_beside_queue_sec)}"
        for lane in lanes
        if lane.idle_beside_queue_sec > _WAIT_LONG
    ]
