"""The monitor with a real ledger and Prefect server, and with ones that are down or hang."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from shutil import which
from typing import Any

import psycopg2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from flows import services
from flows.errors import ServiceFailed
from flows.ledger.locks import INTAKE
from flows.monitor import MonitorServer, monitor
from flows.monitor.failures import OTHERWISE
from flows.monitor.health import Monitor
from flows.monitor.server import Watch
from flows.monitor.usage import Sampler
from flows.reports.prefect_api import request
from flows.services import WORK_POOL
from flows.settings import Settings
from flows.stages.runner.process import SUPERVISOR


@pytest.fixture
def ledger(installation: Settings) -> Iterator[Any]:
    connection = psycopg2.connect(installation.database)
    connection.autocommit = True
    yield connection
    connection.close()


@pytest.fixture
def server(installation: Settings) -> Iterator[MonitorServer]:
    with monitor(installation, port=0) as running:
        yield running


@pytest.fixture
def worker(installation: Settings) -> None:
    """A worker that has just sent a heartbeat to the server."""
    request(installation, "POST", f"/api/work_pools/{WORK_POOL}/workers/heartbeat", b'{"name": "w1"}')


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Port of a server that accepts every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        yield listener.getsockname()[1]


def until_conditions(server: MonitorServer, names: Collection[str], expected: Mapping[str, Any]) -> None:
    """Wait until, of the conditions ``names``, these hold, with these details (None: whatever it says).

    An answer may come from a look that began before the call, for the monitor itself looks all the time.
    """
    deadline = time.monotonic() + 30
    found = None
    while time.monotonic() < deadline:
        conditions = json.loads(get(server, "/health")[2])["conditions"]
        if not conditions:  # not known within the time of an answer
            continue
        found = {name: conditions[name]["detail"] for name in names if conditions[name]["firing"]}
        if found.keys() == expected.keys() and all(
            detail in (None, found[name]) for name, detail in expected.items()
        ):
            return
        time.sleep(0.05)
    raise AssertionError(f"{found} instead of {expected}")


def get(server: MonitorServer, path: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(server.url + path, timeout=30) as answer:  # noqa: S310 - http, ours
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def metrics(server: MonitorServer) -> dict[tuple[str, ...], float]:
    """Return every sample by its name and the values of its labels."""
    families = text_string_to_metric_families(get(server, "/metrics")[2])
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def add_run(
    ledger: Any,
    stage: str,
    queued: float,
    started: float | None = None,
    finished: float | None = None,
    outcome: str = "COMPLETED",
    error: str | None = None,
) -> None:
    """Add a stage run; its times are given in seconds before now."""
    ago = [None if seconds is None else timedelta(seconds=seconds) for seconds in (queued, started, finished)]
    with ledger.cursor() as cursor:
        cursor.execute(
            "INSERT INTO batch_processing (batch_id, file_count) VALUES ('b1', 0) ON CONFLICT DO NOTHING"
        )
        cursor.execute(
            "INSERT INTO stage_runs (batch_id, stage, attempt, queued_at, fenced_at, started_at, finished_at,"
            " outcome, error, host, pid) SELECT 'b1', %s, 1, t - %s, t - %s::interval,"
            " t - %s::interval, t - %s::interval, %s, %s, 'h', 1"
            " FROM clock_timestamp() AS clock (t)",
            (stage, ago[0], ago[1], ago[1], ago[2], None if finished is None else outcome, error),
        )


@pytest.mark.usefixtures("worker")
def test_a_healthy_installation(server: MonitorServer) -> None:
    status, kind, body = get(server, "/health")
    health = json.loads(body)
    assert (status, kind, health["status"]) == (200, "application/json", "healthy")
    assert set(health["components"]) == {"postgres", "prefect_server", "worker", "disk", "stages"}
    assert not any(condition["firing"] for condition in health["conditions"].values())


@pytest.mark.usefixtures("worker")
def test_a_missing_worker_is_unhealthy(server: MonitorServer) -> None:
    request(server.monitor.settings, "DELETE", f"/api/work_pools/{WORK_POOL}/workers/w1")
    status, _, body = get(server, "/health")
    health = json.loads(body)
    assert status == 503
    assert [name for name, component in health["components"].items() if not component["ok"]] == ["worker"]


def test_dead_components_are_reported_at_once(installation: Settings, tmp_path: Path) -> None:
    dead = installation.model_copy(
        update={"database_url": SecretStr(f"postgresql://nobody@/none?host={tmp_path}"), "server_port": 1}
    )
    with monitor(dead, port=0) as server:
        began = time.monotonic()
        status, _, body = get(server, "/health")
        assert time.monotonic() - began < 10
        found = metrics(server)
    components = json.loads(body)["components"]
    assert status == 503
    assert [name for name, component in components.items() if component["ok"]] == ["disk"]
    assert "does not answer" in components["prefect_server"]["detail"]
    assert found["tdp_ledger_up",] == 0


def test_hanging_components_do_not_delay_requests_or_pile_up_threads(
    installation: Settings, silent_port: int
) -> None:
    url = SecretStr(f"postgresql://postgres@127.0.0.1:{silent_port}/tdp")
    hanging = installation.model_copy(update={"database_url": url, "server_port": silent_port})
    with monitor(hanging, port=0) as server:
        began = time.monotonic()
        answers = [threading.Thread(target=get, args=(server, "/health")) for _ in range(10)]
        for answer in answers:
            answer.start()
        for answer in answers:
            answer.join()
        assert time.monotonic() - began < 15
        status, _, body = get(server, "/health")
        assert threading.active_count() < 20
    assert status == 503
    assert json.loads(body)["components"]["disk"]["ok"]


@pytest.mark.parametrize(
    ("condition", "runs"),
    [
        ("stage_waits_long", [("convert", 700), ("convert", 900, 650)]),
        ("stage_idle_beside_queue", [("store", 700)]),
        ("stage_past_timeout", [("store", 4000, 3700)]),
        ("extract_queue_long", [("extract", 5)] * 51),
        ("extract_slow", [("extract", 3000, 2900, 1600), ("extract", 1600, 1599, 300)]),
    ],
)
def test_each_condition_fires(
    ledger: Any, server: MonitorServer, condition: str, runs: list[tuple[Any, ...]]
) -> None:
    until_conditions(server, [condition], {})
    for run in runs:
        add_run(ledger, *run)
    until_conditions(server, [condition], {condition: None})


def test_an_intake_that_stands_still_is_a_condition(ledger: Any, server: MonitorServer) -> None:
    name = "intake_stands_still"
    with ledger.cursor() as cursor:
        cursor.execute("UPDATE intake SET moved_at = clock_timestamp() - interval '11 minutes'")
        until_conditions(server, [name], {})  # no run holds the lock
        cursor.execute("SELECT pg_advisory_lock(%s, 0)", [INTAKE])
        until_conditions(server, [name], {name: None})
        cursor.execute("UPDATE intake SET moved_at = clock_timestamp()")
        until_conditions(server, [name], {})


def test_failures_are_conditions_until_an_operator_acts(ledger: Any, server: MonitorServer) -> None:
    until_conditions(server, OTHERWISE, {})
    with ledger.cursor() as cursor:
        cursor.execute(
            "WITH s AS (INSERT INTO source_files (sha256, name, size_bytes, stored_path)"
            " VALUES (repeat('a', 64), 'a.zip', 1, '/x') RETURNING source_id), b AS (INSERT INTO"
            " batch_processing (batch_id, file_count, status) VALUES ('b1', 1, 'FAILED') RETURNING batch_id)"
            " INSERT INTO batch_files (batch_id, source_id, position, status)"
            " SELECT batch_id, source_id, 1, 'QUARANTINED' FROM s, b"
        )
        expected = {
            "batch_failed": "1 batch has failed: `tdp batches --status failed`",
            "file_quarantined": "1 file is quarantined: `tdp files --status quarantined`",
        }
        until_conditions(server, OTHERWISE, expected)
        cursor.execute("UPDATE source_files SET returned_at = clock_timestamp()")
        cursor.execute("UPDATE batch_processing SET status = 'COMPLETED'")
        until_conditions(server, OTHERWISE, {})
        cursor.execute("TRUNCATE source_files CASCADE")


def test_a_long_queue_is_a_condition_but_only_a_stuck_stage_is_unhealthy(
    ledger: Any, server: MonitorServer
) -> None:
    add_run(ledger, "extract", 900)
    add_run(ledger, "extract", 900, 800)
    until_conditions(server, ["stage_waits_long"], {"stage_waits_long": None})
    stages = json.loads(get(server, "/health")[2])["components"]["stages"]
    assert stages["ok"], "the waiting run waits for one that is within its time-out"
    add_run(ledger, "convert", 900)
    deadline = time.monotonic() + 30
    while stages["ok"]:
        stages = json.loads(get(server, "/health")[2])["components"]["stages"]
        assert time.monotonic() < deadline
    assert re.fullmatch(r"convert: 1 batch waiting, no run for 15 min \d\d s", stages["detail"])


def test_metrics_of_the_ledger(ledger: Any, server: MonitorServer) -> None:
    for _ in range(3):
        add_run(ledger, "extract", 20)
    add_run(ledger, "extract", 30, 25)
    add_run(ledger, "convert", 100, 90, 86)
    add_run(ledger, "convert", 80, 75, 74, "LOST", "its process died")
    add_run(ledger, "convert", 70, 65, 64, "FAILED", "GateLost: the fence's database session was lost")
    add_run(ledger, "store", 60, 55, 50, "CANCELLED")
    lines = get(server, "/metrics")[2].splitlines()
    assert 'queue_size{stage="extract"} 3.0' in lines
    assert any(line.startswith("error_rate 0.66") for line in lines), (
        "2 of 3 runs; a cancelled run does not count"
    )
    found = metrics(server)
    assert found["tdp_stage_active", "extract"] == 1
    assert [found["tdp_stage_limit", stage] for stage in ("extract", "convert", "store")] == [1, 1, 5]
    assert found["tdp_overlaps",] == 0
    assert found["tdp_stage_oldest_wait_seconds", "extract"] == pytest.approx(20, abs=5)
    assert found["tdp_recoveries_total", "convert"] == 1
    assert found["tdp_lease_losses_total", "convert"] == 1
    assert found["tdp_batches", "QUEUED"] == 1
    assert found["tdp_batches", "FAILED"] == 0


def test_histograms_add_up(ledger: Any, server: MonitorServer) -> None:
    for seconds in (0.3, 4, 4, 7200):
        add_run(ledger, "store", 8000, 7990, 7990 - seconds)
    found = metrics(server)
    name = "tdp_stage_duration_seconds"
    buckets = {key[1]: value for key, value in found.items() if key[::2] == (f"{name}_bucket", "store")}
    assert (buckets["0.25"], buckets["0.5"], buckets["5.0"], buckets["3600.0"], buckets["+Inf"]) == (
        0,
        1,
        3,
        3,
        4,
    )
    assert found[f"{name}_count", "store"] == 4
    assert found[f"{name}_sum", "store"] == pytest.approx(7208.3)
    assert found["tdp_stage_wait_seconds_bucket", "30.0", "store"] == 4


def test_overlapping_exclusive_runs_are_counted(ledger: Any, server: MonitorServer) -> None:
    add_run(ledger, "extract", 100, 100, 50)
    add_run(ledger, "extract", 90, 90, 40)
    assert metrics(server)["tdp_overlaps",] == 1


def test_the_timeline_of_a_run_is_an_image(server: MonitorServer) -> None:
    status, kind, body = get(server, "/timeline.svg?run=00000000-0000-0000-0000-000000000001")
    assert (status, kind) == (200, "image/svg+xml; charset=utf-8")
    assert body.startswith("<svg")
    assert get(server, "/timeline.svg?run=last")[0] == 400
    assert get(server, "/else")[0] == 404


def test_raised_and_cleared_conditions_are_logged_and_sent_to_prefect(
    ledger: Any, installation: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    watch = Watch(Monitor(installation))
    add_run(ledger, "convert", 700)
    watch.check()
    watch.check()
    assert caplog.text.count("Raised: stage_idle_beside_queue (convert: 1 batch waiting") == 1
    with ledger.cursor() as cursor:
        cursor.execute("DELETE FROM stage_runs")
    watch.check()
    assert "Cleared: stage_idle_beside_queue" in caplog.text
    expected = {
        ("tdp.condition.raised", "stage_idle_beside_queue"),
        ("tdp.condition.cleared", "stage_idle_beside_queue"),
    }
    deadline = time.monotonic() + 30  # the server stores events in batches
    while not expected <= _events(installation) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert expected <= _events(installation)


def _events(settings: Settings) -> set[tuple[str, str]]:
    body = {"filter": {"event": {"prefix": ["tdp.condition."]}}}
    found = json.loads(request(settings, "POST", "/api/events/filter", json.dumps(body).encode()))
    return {(event["event"], event["resource"]["prefect.resource.name"]) for event in found["events"]}


def test_usage_covers_processes_of_the_home_and_their_descendants(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url=SecretStr("postgresql://elsewhere/tdp"))
    sampler = Sampler(settings)
    busy = "import sys, time; s = bytearray(50_000_000); print(flush=True)\nwhile True: pass"
    command = ["-c", busy, str(SUPERVISOR)]
    parent = f"import subprocess, sys; subprocess.run([sys.executable, *{command!r}], env={{}})"
    environment = os.environ | {"TDP_HOME": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", parent], env=environment, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            before = sampler.sample()
            deadline = time.monotonic() + 0.5
            while time.monotonic() < deadline:
                time.sleep(0.1)
            usage = sampler.sample()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert before.memory_bytes["stages"] > 50_000_000
    assert "other" in usage.memory_bytes, "this test itself"
    assert usage.cpu_cores > 0.2
    assert 0 < usage.cpu_share <= 1
    assert 0 < usage.memory_share < 1


def test_the_monitor_runs_as_a_process_and_exits_on_sigterm(installation: Settings) -> None:
    port = services.free_port()
    env = os.environ | {"TDP_MONITOR_PORT": str(port)}
    with subprocess.Popen(
        [sys.executable, "-m", "flows.monitor"], env=env, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert f"http://127.0.0.1:{port}/health" in process.stderr.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            assert b"queue_size" in answer.read()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_port_in_use_is_an_error_that_names_the_variable(server: MonitorServer) -> None:
    port = server.server_address[1]
    with pytest.raises(ServiceFailed, match="TDP_MONITOR_PORT"):
        MonitorServer(server.monitor.settings, port)


DEPLOYMENTS = Path(__file__).parents[2] / "deployments"
_NAME = re.compile(r"\b(?:tdp_\w+|queue_size|error_rate)\b")


def _dashboard_queries() -> list[str]:
    dashboard = json.loads((DEPLOYMENTS / "grafana" / "dashboard.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_dashboard_and_alerts_use_existing_metrics(ledger: Any, server: MonitorServer) -> None:
    add_run(ledger, "extract", 20, 15, 10)
    with ledger.cursor() as cursor:
        cursor.execute("INSERT INTO bots (bot_id, name, host, pid) VALUES (1, 'exports_bot', 'here', 1)")
    Watch(server.monitor).check()
    queried = set(_NAME.findall("\n".join(_dashboard_queries())))
    alerts = (DEPLOYMENTS / "prometheus" / "alerts.yml").read_text()
    queried |= set(
        _NAME.findall("\n".join(line for line in alerts.splitlines() if "description" not in line))
    )
    assert len(queried) > 20
    assert queried <= {name for name, *_ in metrics(server)}


@pytest.mark.skipif(not which("promtool"), reason="no promtool: it comes with Debian's package prometheus")
def test_promtool_accepts_metrics_alerts_and_the_dashboards_queries(
    server: MonitorServer, tmp_path: Path
) -> None:
    def promtool(*args: str, text: str | None = None) -> None:
        done = subprocess.run(
            [str(which("promtool")), *args], check=False, input=text, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    promtool("check", "metrics", text=get(server, "/metrics")[2])
    promtool("check", "config", str(DEPLOYMENTS / "prometheus" / "prometheus.yml"))
    promtool("test", "rules", str(DEPLOYMENTS / "prometheus" / "alerts_test.yml"))
    queries = [query.replace("$__rate_interval", "1m") for query in _dashboard_queries()]
    rules = [{"record": f"panel:{n}", "expr": query} for n, query in enumerate(queries)]
    (tmp_path / "dashboard.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "dashboard.yml"))
