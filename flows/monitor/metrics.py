"""Metrics in Prometheus' text format, read from the ledger at each scrape.

``error_rate`` and ``queue_size`` keep the names that operators already use; all others begin with ``tdp_``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from flows import reports
from flows.domain import BATCH_STATUSES
from flows.errors import ServiceFailed
from flows.ledger.connection import Connection
from flows.monitor.bot import bot_metrics
from flows.monitor.health import ANSWER_SECONDS, Monitor, connect, sql
from flows.monitor.history import History, Totals
from flows.monitor.probe import Probe, run_all
from flows.reports.prefect_api import slots
from flows.settings import Settings

#: Upper bounds of the histograms, in seconds.
BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0)


class Metrics(Collector):
    """All metrics of one installation."""

    def __init__(self, monitor: Monitor) -> None:
        """Export the metrics of the installation that ``monitor`` checks."""
        self._monitor = monitor
        history = History(BUCKETS)
        self._ledger = Probe(lambda: _of_ledger(monitor.settings, history))
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """Return all metrics in the text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the ledger's metrics if it is available, the latest health, and the resource usage."""
        families = run_all({"ledger": self._ledger}, ANSWER_SECONDS)["ledger"].value
        yield GaugeMetricFamily(
            "tdp_ledger_up", "Whether the ledger answered this scrape.", value=bool(families)
        )
        yield from families or []
        health, usage = self._monitor.latest, self._monitor.usage
        up = {name: component.ok for name, component in health.components.items()}
        yield _gauges("tdp_component_up", "Components, 1 while they are ok.", "component", up)
        firing = {name: condition.firing for name, condition in health.conditions.items()}
        yield _gauges("tdp_condition", "Conditions, 1 while they hold.", "condition", firing)
        yield _gauges(
            "tdp_memory_bytes",
            "Memory of this installation's processes on this host.",
            "service",
            usage.memory_bytes,
        )
        yield GaugeMetricFamily(
            "tdp_cpu_cores",
            "Cores used by this installation's processes on this host.",
            value=usage.cpu_cores,
        )
        yield GaugeMetricFamily(
            "tdp_memory_share", "Share of the machine's memory.", value=usage.memory_share
        )
        yield GaugeMetricFamily(
            "tdp_cpu_share", "Share of the machine's cores, last 5 minutes.", value=usage.cpu_share
        )

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the metrics are known only at the scrape."""
        return []


def _of_ledger(settings: Settings, history: History) -> list[Metric]:
    with connect(settings) as ledger:
        now = reports.status(ledger, _limits(settings))
        stages = [lane.stage for lane in now.lanes]
        runs = _runs(history.read(ledger), stages)
        return [*_lanes(now), *_states(now), *_recent(ledger), *bot_metrics(ledger), *runs]


def _limits(settings: Settings) -> dict[str, int]:
    try:
        return {name: slot.limit for name, slot in slots(settings, timeout=1.0).items()}
    except ServiceFailed:
        return {}


def _lanes(now: reports.Status) -> Iterator[Metric]:
    lanes = now.lanes
    waiting = {lane.stage: len(lane.queue) for lane in lanes}
    yield _gauges("queue_size", "Batches that wait for a stage's gate.", "stage", waiting)
    active = {lane.stage: len(lane.holders) for lane in lanes}
    yield _gauges("tdp_stage_active", "Stage runs at work.", "stage", active)
    limits = {lane.stage: lane.limit for lane in lanes if lane.limit is not None}
    yield _gauges("tdp_stage_limit", "Stage runs that may be at work at the same time.", "stage", limits)
    oldest = {lane.stage: lane.oldest_wait_sec for lane in lanes}
    yield _gauges(
        "tdp_stage_oldest_wait_seconds", "Wait of the first batch in a stage's queue.", "stage", oldest
    )


def _states(now: reports.Status) -> Iterator[Metric]:
    batches = {status: now.batches.get(status, 0) for status in BATCH_STATUSES}
    yield _gauges("tdp_batches", "Batches by status.", "status", batches)
    files = now.files
    states = {
        "stored": files.stored,
        "partial": files.partial,
        "quarantined": files.quarantined,
        "returned": files.returned,
        "dropped": files.dropped,
        "waiting": files.waiting,
    }
    yield _gauges("tdp_files", "Source files by status.", "status", states)
    yield CounterMetricFamily("tdp_files_received", "Source files received.", value=files.received)
    yield CounterMetricFamily(
        "tdp_files_duplicate", "Arrivals of content received before.", value=files.duplicates
    )


def _recent(ledger: Connection) -> Iterator[Metric]:
    rate = sql.error_rate(ledger)
    help_ = "Share of the stage runs ended in the last hour that failed, timed out or were lost."
    yield GaugeMetricFamily("error_rate", help_, value=rate)
    messages = sql.messages_stored(ledger)
    yield CounterMetricFamily("tdp_messages_stored", "Messages stored from all files.", value=messages)


def _runs(totals: Totals, stages: list[str]) -> Iterator[Metric]:
    help_ = "Runs of an exclusive stage that overlapped another. Must be 0."
    yield GaugeMetricFamily("tdp_overlaps", help_, value=totals.overlaps)
    ended = CounterMetricFamily("tdp_stage_runs", "Stage runs ended.", labels=["stage", "outcome"])
    for (stage, outcome), runs in sorted(totals.outcomes.items()):
        ended.add_metric([stage, outcome.lower()], runs)
    yield ended
    lost = {stage: totals.outcomes[stage, "LOST"] for stage in stages}
    yield _counters("tdp_recoveries", "Stage runs of dead holders, closed as LOST.", lost)
    losses = {stage: totals.lease_losses[stage] for stage in stages}
    yield _counters("tdp_lease_losses", "Stage runs ended because their lease or session was lost.", losses)
    help_ = "Waits of stage runs for their gate."
    yield _histogram("tdp_stage_wait_seconds", help_, stages, totals.waits, totals.wait_seconds)
    help_ = "Durations of completed stage runs."
    yield _histogram("tdp_stage_duration_seconds", help_, stages, totals.durations, totals.duration_seconds)


def _gauges(name: str, help_: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, help_, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counters(name: str, help_: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, help_, labels=["stage"])
    for stage, value in values.items():
        family.add_metric([stage], value)
    return family


def _histogram(
    name: str,
    help_: str,
    stages: list[str],
    runs: Mapping[tuple[str, int], int],
    seconds: Mapping[str, float],
) -> Metric:
    """Return cumulative buckets; the bucket in the keys of ``runs`` is the number of bounds reached."""
    family = HistogramMetricFamily(name, help_, labels=["stage"])
    for stage in stages:
        counts = accumulate(runs.get((stage, bucket), 0) for bucket in range(len(BUCKETS) + 1))
        bounds = [*map(floatToGoString, BUCKETS), "+Inf"]
        family.add_metric([stage], list(zip(bounds, counts, strict=True)), seconds.get(stage, 0.0))
    return family
