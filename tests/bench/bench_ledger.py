"""The ledger with a million past stage runs: the statements of the monitor and of every stage run.

usage: python tests/bench/bench_ledger.py [--quick] [RUNS]

The raw figures of each row contain the tables that its plan scans sequentially.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import frame
import psycopg
from frame import Row, row

from flows import services
from flows.ledger.schema_version import migrate
from flows.monitor.health import Monitor
from flows.monitor.metrics import Metrics
from flows.settings import Settings

SQL = Path(services.__file__).parents[1] / "ledger" / "sql"
FILL = """
INSERT INTO source_files (sha256, name, size_bytes, stored_path, received_at)
SELECT encode(sha256(n::text::bytea), 'hex'), n || '.zip', 1000, '/nowhere/' || n, t
FROM generate_series(1, %(batches)s) n, LATERAL (SELECT now() - (%(batches)s - n) * interval '4 s' AS t) at;
INSERT INTO receipts (source_id, origin, duplicate, received_at)
SELECT source_id, 'inbox', false, received_at FROM source_files;
INSERT INTO batch_processing (status, file_count, created_at, started_at, completed_at)
SELECT 'COMPLETED', 1, received_at, received_at, received_at + interval '9 s'
FROM source_files ORDER BY source_id;
INSERT INTO batch_files (batch_id, source_id, position, status, stage, chats, messages)
SELECT 'batch_' || to_char(source_id, 'FM999999000000'), source_id, 1, 'STORED', 'store', 1, 100
FROM source_files;
INSERT INTO stage_runs
    (batch_id, stage, attempt, queued_at, fenced_at, started_at, finished_at, outcome, host, pid)
SELECT batch_id, stage, 1, created_at, began, began, began + interval '2 s', 'COMPLETED', 'here', 1
FROM batch_processing, stages, LATERAL (SELECT created_at + position * interval '2.5 s' AS began) at
ORDER BY began;
"""
#: The statements that run once for each stage run, or every few seconds.
STATEMENTS = {
    "gate.sql": ["open_stage_run", "leases_behind_gate", "enter_gate", "finish_stage_run"],
    "recover.sql": ["stages_at_rest"],
    "batches.sql": ["has_completed", "batch_report"],
    "reports.sql": ["lanes", "open_runs", "batch_statuses", "file_counts", "batches", "timings"],
    "monitor.sql": [
        "lane_health",
        "error_rate",
        "settled",
        "messages_stored",
    ],
}
VALUES = {
    "batch_id": "batch_000100", "stage": "extract", "host": "here", "pid": 1, "flow_run_id": None, "slot": 0,
    "task_run_id": None, "stage_run_id": 5, "status": None, "since": None, "limit": 20,
    "space": 0, "key": 0, "within": 5, "outcome": "COMPLETED", "error": None, "counts": None,
    "age": None, "on_spec": True, "seconds": 25, "by": "stage", "ids": None, "limits": "{}",
}  # fmt: skip


def statement(file: str, name: str) -> str:
    """Return a named statement with the placeholders of psycopg."""
    text = (SQL / file).read_text()
    found = re.search(rf"-- name: {name}[^\n]*\n(.*?);\s*(?=-- name|\Z)", text, re.DOTALL)
    assert found, name
    lines = (line for line in found[1].splitlines() if not line.startswith("--"))
    return re.sub(r"(?<!:):([a-z_]+)", r"%(\1)s", "\n".join(lines).replace("%", "%%"))


def measure(quick: bool, runs: str = "") -> Iterator[Row]:
    total = int(runs) if runs else 30_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory(prefix="tdp-bench-") as name:
        settings = Settings(home=Path(name))
        with services.postgres(settings):
            migrate(settings.database)
            with psycopg.connect(settings.database, autocommit=True) as connection:
                for step in FILL.split(";\n")[:-1]:
                    connection.execute(step.encode() % {b"batches": b"%d" % (total // 3)})
                connection.execute("VACUUM ANALYZE")
                yield from measure_statements(connection)
            metrics = Metrics(Monitor(settings))
            # After 2 s the ledger would count as down. Only the ledger runs here.
            seconds = [frame.timed(metrics.text) for _ in range(5)]
            first, *others = seconds
            yield row("/metrics, first request", 1000 * first, "ms")
            yield row(f"/metrics with {total:,} runs", 1000 * median(others), "ms", most=1000, all=seconds)


def measure_statements(connection: psycopg.Connection) -> Iterator[Row]:
    for file, names in STATEMENTS.items():
        for name in names:
            text = statement(file, name).encode()
            seconds = []
            for _ in range(5):
                with connection.transaction(force_rollback=True):
                    seconds.append(frame.timed(lambda text=text: connection.execute(text, VALUES).fetchall()))
            with connection.transaction(force_rollback=True):
                plan = "\n".join(line for (line,) in connection.execute(b"EXPLAIN " + text, VALUES))
            scans = sorted(set(re.findall(r"Seq Scan on (\w+)", plan)) - {"stages"})
            most = 5 if file in ("gate.sql", "batches.sql") else None
            yield row(name, 1000 * median(seconds), "ms", most=most, reads_whole=scans)


if __name__ == "__main__":
    frame.run(measure)
