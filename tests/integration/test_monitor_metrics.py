"""The metrics of the monitor, and the dashboard and the alerts that use them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from monitored import add_run, get, metrics
from pydantic import SecretStr

from flows.monitor import MonitorServer, monitor
from flows.monitor.server import Watch
from flows.monitor.usage import Sampler
from flows.settings import Settings
from flows.stages.runner.process import SUPERVISOR


@pytest.fixture
def server(installation: Settings) -> Iterator[MonitorServer]:
    with monitor(installation, port=0) as running:
        yield running


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
