"""Each rule of `tdp verify`, kept and broken, with a real ledger and a real Prefect server."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from prefect.client.orchestration import get_client
from typer.testing import CliRunner

from flows.cli.reports import app
from flows.ledger.connection import connection
from flows.ledger.locks import FENCE, fence_key
from flows.operations.audit import Check, verify
from flows.settings import Settings
from flows.stages.runner.host_identity import place

Run = Callable[..., int]
T0 = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LOCK = "SELECT pg_advisory_lock(hashtextextended('batch_000001', 0))"


@pytest.fixture
def ledger(installation: Settings) -> Iterator[Any]:
    connection = psycopg2.connect(installation.database)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO batch_processing (batch_id, file_count) VALUES ('batch_000001', 0)")
    yield connection
    connection.close()


@pytest.fixture
def owned(ledger: Any, installation: Settings) -> Iterator[None]:
    """Batch 1 has an owner: a session holds its lock."""
    owner = psycopg2.connect(installation.database)
    execute(owner, LOCK)
    yield
    owner.close()


@contextmanager
def fence_held(settings: Settings, key: int) -> Iterator[None]:
    with connection(settings.database) as session:
        execute(session, "SELECT pg_advisory_lock(%s, %s)", FENCE, key)
        yield
        execute(session, "SELECT pg_advisory_unlock(%s, %s)", FENCE, key)  # PostgreSQL notices a close later


def execute(ledger: Any, sql: str, *values: Any) -> Any:
    with ledger.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchone() if cursor.description else None


@pytest.fixture
def add(ledger: Any) -> Run:
    def add(queued: float, start: float | None = None, end: float | None = None, **row: Any) -> int:
        def at(seconds: float | None) -> datetime | None:
            return None if seconds is None else T0 + timedelta(seconds=seconds)

        values = {
            "batch_id": "batch_000001",
            "stage": "extract",
            "attempt": 1,
            "queued_at": at(queued),
            "fenced_at": at(start),
            "started_at": at(start),
            "finished_at": at(end),
            "outcome": None if end is None else "COMPLETED",
            "host": "elsewhere",
            "pid": 1,
        } | row
        names, marks = ", ".join(values), ", ".join(["%s"] * len(values))
        sql = f"INSERT INTO stage_runs ({names}) VALUES ({marks}) RETURNING stage_run_id"  # noqa: S608 - ours
        (run_id,) = execute(ledger, sql, *values.values())
        return int(run_id)

    return add


@pytest.fixture
def broken(ledger: Any, installation: Settings) -> Callable[..., list[str]]:
    """A function that returns the names of the rules that are broken."""
    return lambda **bounds: [c.name for c in verify(ledger, installation, **bounds) if not c.is_kept]


def one(ledger: Any, settings: Settings, name: str) -> Check:
    return next(check for check in verify(ledger, settings) if check.name == name)


def test_a_correct_ledger_keeps_every_rule(ledger: Any, add: Run, broken: Callable[..., list[str]]) -> None:
    add(0, 0, 10)
    add(0, 10, 20)
    add(0, 15, 30, stage="convert")
    add(0, 15, 30, stage="store", slot=0)
    add(0, 20, 30, stage="store", slot=1)
    assert broken() == []


def test_two_exclusive_runs_at_once(ledger: Any, add: Run, broken: Callable[..., list[str]]) -> None:
    add(0, 0, 10)
    add(0, 9.9, 20)
    assert broken() == ["overlaps"]
    assert broken(since=T0 + timedelta(seconds=60)) == []


def test_a_run_that_started_before_it_was_queued(add: Run, broken: Callable[..., list[str]]) -> None:
    add(10, 5, 20)
    assert broken() == ["order"]


@pytest.mark.usefixtures("owned")
def test_a_run_may_wait_for_an_owned_batch(add: Run, broken: Callable[..., list[str]]) -> None:
    add(0)
    assert broken() == []


def test_a_run_that_waits_for_a_batch_without_owner(add: Run, broken: Callable[..., list[str]]) -> None:
    add(0)
    assert broken() == ["owners"]


async def test_a_run_must_hold_its_fence(ledger: Any, installation: Settings, add: Run) -> None:
    add(0, 1, stage="convert")
    with fence_held(installation, fence_key(2)):
        assert one(ledger, installation, "owners").offending == []
    (row,) = one(ledger, installation, "owners").offending
    assert row["reason"] == "its fence is not held"


async def test_the_fence_of_another_slot_does_not_count(
    ledger: Any, installation: Settings, add: Run
) -> None:
    add(0, 1, stage="store", slot=1)
    with fence_held(installation, fence_key(3)):
        assert len(one(ledger, installation, "owners").offending) == 1


@pytest.mark.usefixtures("owned")
def test_a_run_of_a_dead_process_of_this_host(ledger: Any, add: Run, installation: Settings) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    add(0, place=place(), pid=os.getpid())
    dead = add(0, place=place(), pid=ended.pid)
    assert [row["stage_run_id"] for row in one(ledger, installation, "processes").offending] == [dead]


def test_a_slot_without_a_holder(
    ledger: Any, installation: Settings, add: Run, broken: Callable[..., list[str]]
) -> None:
    with get_client(sync_client=True) as client:
        client.increment_concurrency_slots(["extract"], 1, "concurrency")
        try:
            assert broken() == ["slots"]
            (row,) = one(ledger, installation, "slots").offending
            # A process may keep the slot of a run that has just ended.
            add(0, 1, lease_id=str(uuid.uuid4()), finished_at=datetime.now(UTC), outcome="COMPLETED")
            assert one(ledger, installation, "slots").is_kept
        finally:
            client.release_concurrency_slots(["extract"], 1, 1.0)
    assert row == {"stage": "extract", "reason": "1 more of its slots are taken than runs hold a lease"}
    assert broken() == []


@pytest.mark.usefixtures("owned")
def test_a_run_with_a_lease_that_the_server_does_not_count(
    add: Run, ledger: Any, installation: Settings
) -> None:
    add(0, stage="convert", lease_id=str(uuid.uuid4()))
    (row,) = one(ledger, installation, "slots").offending
    assert row == {"stage": "convert", "reason": "1 fewer of its slots are taken than runs hold a lease"}


def test_slots_are_unchecked_without_a_server(ledger: Any, installation: Settings) -> None:
    away = installation.model_copy(update={"server_port": 1})
    check = one(ledger, away, "slots")
    assert not check.is_kept
    assert "does not respond" in (check.unchecked or "")


def add_source(ledger: Any, settings: Settings) -> Path:
    """Add a source file without a receipt; return its stored file."""
    stored = settings.sources / "aa" / ("a" * 64)
    stored.parent.mkdir(parents=True)
    stored.write_text("7 bytes")
    execute(
        ledger,
        "INSERT INTO source_files (sha256, name, size_bytes, stored_path) VALUES (%s, 'a.zip', 7, %s)",
        "a" * 64,
        str(stored),
    )
    return stored


def test_a_source_without_its_bytes(
    ledger: Any, installation: Settings, broken: Callable[..., list[str]]
) -> None:
    stored = add_source(ledger, installation)
    execute(
        ledger,
        "INSERT INTO receipts (source_id, origin, duplicate) SELECT source_id, '', false FROM source_files",
    )
    assert broken() == []
    stored.write_text("less")
    assert broken() == ["sources"]
    (row,) = one(ledger, installation, "sources").offending
    assert (row["name"], row["reason"].partition(":")[0]) == ("a.zip", "has 4 of 7 bytes")
    stored.unlink()
    (row,) = one(ledger, installation, "sources").offending
    assert row["reason"].startswith("missing")
    execute(ledger, "UPDATE source_files SET purged_at = now()")
    assert broken() == []


def test_files_that_do_not_add_up(
    ledger: Any, installation: Settings, broken: Callable[..., list[str]]
) -> None:
    add_source(ledger, installation)
    assert broken() == ["files"], "no receipt"
    execute(
        ledger,
        "INSERT INTO receipts (source_id, origin, duplicate) SELECT source_id, '', false FROM source_files",
    )
    assert broken() == [], "the file waits for a batch"
    execute(
        ledger,
        "INSERT INTO batch_files (batch_id, source_id, position)"
        " SELECT 'batch_000001', source_id, 0 FROM source_files",
    )
    assert broken() == ["files"], "the batch was created without files"
    execute(ledger, "UPDATE batch_processing SET file_count = 1")
    assert broken() == []


def test_a_completed_batch_that_was_never_stored(
    ledger: Any, add: Run, broken: Callable[..., list[str]]
) -> None:
    add(0, 0, 10)
    add(10, 10, 20, stage="convert")
    execute(ledger, "UPDATE batch_processing SET status = 'COMPLETED'")
    assert broken() == ["stages"]
    add(20, 20, 30, stage="store")
    assert broken() == []


def test_a_work_directory_of_no_batch(installation: Settings, broken: Callable[..., list[str]]) -> None:
    (installation.work / "batch_000001").mkdir(parents=True)
    assert broken() == []
    (installation.work / "batch_999999").mkdir()
    assert broken() == ["work"]


def test_the_command_exits_with_status_1_and_shows_the_rows(ledger: Any, add: Run) -> None:
    assert CliRunner().invoke(app, ["verify"]).exit_code == 0
    add(0, 0, 10)
    overlapping = add(0, 5, 20)
    result = CliRunner().invoke(app, ["verify"], env={"COLUMNS": "300"})
    assert result.exit_code == 1
    assert "BROKEN overlaps" in result.stdout
    assert f"stage_run_id={overlapping}" in result.stdout


def test_two_processes_of_an_exclusive_stage(ledger: Any, installation: Settings) -> None:
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)", "flows.stages.convert"]
    processes = [subprocess.Popen([*sleeping, str(installation.work / str(n))]) for n in range(2)]
    try:
        (check,) = [check for check in verify(ledger, installation) if check.name == "alone"]
        assert sorted(row["pid"] for row in check.offending) == sorted(process.pid for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
