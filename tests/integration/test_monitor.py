"""The health and the conditions that the monitor reports, also when ledger or server are down or hang."""

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monitored import add_run, get, metrics, until_conditions
from pydantic import SecretStr

from flows import services
from flows.errors import ServiceFailed
from flows.ledger.locks import INTAKE
from flows.monitor import MonitorServer, monitor
from flows.monitor.failures import OTHERWISE
from flows.monitor.health import Monitor
from flows.monitor.server import Watch
from flows.reports.prefect_api import request
from flows.services import WORK_POOL
from flows.settings import Settings


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
    assert "does not respond" in components["prefect_server"]["detail"]
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


@pytest.mark.parametrize(
    ("state", "message", "clears"),
    [
        ("CRASHED", "Its process has died", True),
        ("FAILED", "Flow run encountered an exception: BatchesFailed: 1 of 2 batches failed", True),
        ("FAILED", "Flow run encountered an exception: KeyError: 1", False),
    ],
)
def test_a_failed_run_is_a_condition_until_its_batches_are_completed(
    ledger: Any, server: MonitorServer, state: str, message: str, clears: bool
) -> None:
    def create(path: str, **body: object) -> str:
        answer = request(server.monitor.settings, "POST", f"/api/{path}/", json.dumps(body).encode())
        return str(json.loads(answer)["id"])

    flow = create("flows", name="process-inbox")
    run = create("flow_runs", flow_id=flow, state={"type": state, "name": state, "message": message})
    until_conditions(server, ["run_failed"], {"run_failed": None})
    with ledger.cursor() as cursor:
        for number, status in enumerate(("COMPLETED", "FAILED")):
            cursor.execute(
                "INSERT INTO batch_processing (batch_id, file_count, status) VALUES (%s, 1, %s)",
                [f"b{number}", status],
            )
            cursor.execute(
                "INSERT INTO run_batches (flow_run_id, position, batch_id) VALUES (%s, %s, %s)",
                [run, number, f"b{number}"],
            )
        until_conditions(server, OTHERWISE, {"run_failed": None, "batch_failed": None})
        cursor.execute("UPDATE batch_processing SET status = 'COMPLETED'")
    until_conditions(server, OTHERWISE, {} if clears else {"run_failed": None})


def test_a_long_queue_is_a_condition_but_only_a_stuck_stage_is_unhealthy(
    ledger: Any, server: MonitorServer
) -> None:
    add_run(ledger, "extract", 900)
    add_run(ledger, "extract", 900, 800)
    until_conditions(server, ["stage_waits_long"], {"stage_waits_long": None})
    stages = json.loads(get(server, "/health")[2])["components"]["stages"]
    assert stages["ok"], "the waiting run waits for one that is within its timeout"
    add_run(ledger, "convert", 900)
    deadline = time.monotonic() + 30
    while stages["ok"]:
        stages = json.loads(get(server, "/health")[2])["components"]["stages"]
        assert time.monotonic() < deadline
    assert re.fullmatch(r"convert: 1 batch waiting, no run for 15 min \d\d s", stages["detail"])


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
