"""Reports on a ledger with known times."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from typer.testing import CliRunner, Result

from flows import reports
from flows.cli.reports import app
from flows.cli.umask import make_private
from flows.errors import BatchUnknown, DatabaseUnavailable
from flows.reports.timeline import timeline_svg

T0 = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RUN = uuid.UUID(int=7)


@pytest.fixture
def ledger(database_url: str) -> Iterator[Any]:
    connection = psycopg2.connect(database_url)
    connection.autocommit = True
    yield connection
    connection.close()


def execute(ledger: Any, sql: str, *values: Any) -> Any:
    with ledger.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchone() if cursor.description else None


@pytest.fixture
def tdp(database_url: str, tmp_path: Path) -> Callable[..., Result]:
    env = {
        "TDP_DATABASE_URL": database_url,
        "TDP_HOME": str(tmp_path),
        "TDP_SERVER_PORT": "1",
        "COLUMNS": "200",
    }
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args], env=env)


def add_batch(ledger: Any, batch_id: str, files: list[str], status: str = "COMPLETED") -> None:
    execute(
        ledger,
        "INSERT INTO batch_processing (batch_id, status, file_count, created_at, error_message)"
        " VALUES (%s, %s, %s, %s, %s)",
        batch_id,
        status,
        len(files),
        T0,
        "exit status 3 | bad luck" if status == "FAILED" else None,
    )
    execute(
        ledger, "INSERT INTO run_batches SELECT %s, count(*), %s, %s FROM run_batches", str(RUN), batch_id, T0
    )
    for position, file_status in enumerate(files):
        (source,) = execute(
            ledger,
            "INSERT INTO source_files (sha256, name, size_bytes, stored_path)"
            " VALUES (%s, %s, 1000000, '') RETURNING source_id",
            uuid.uuid4().hex * 2,
            f"{batch_id}-{position}.zip",
        )
        execute(ledger, "INSERT INTO receipts (source_id, origin, duplicate) VALUES (%s, '', false)", source)
        execute(
            ledger,
            "INSERT INTO batch_files VALUES (%s, %s, %s, %s, 'extract', %s, 2, 30)",
            batch_id,
            source,
            position,
            file_status,
            "not <a> ZIP | at all" if file_status == "QUARANTINED" else None,
        )


def add_run(
    ledger: Any, batch: str, stage: str, queued: float, start: float | None, end: float | None, **row: Any
) -> None:
    def at(seconds: float | None) -> datetime | None:
        return None if seconds is None else T0 + timedelta(seconds=seconds)

    values = {
        "batch_id": batch,
        "stage": stage,
        "attempt": 1,
        "queued_at": at(queued),
        "fenced_at": at(start),
        "started_at": at(start),
        "finished_at": at(end),
        "outcome": None if end is None else "COMPLETED",
        "host": "alpha",
        "pid": 42,
        "files": 10,
        "bytes_in": 20_000_000,
    } | row
    columns, marks = ", ".join(values), ", ".join(["%s"] * len(values))
    execute(ledger, f"INSERT INTO stage_runs ({columns}) VALUES ({marks})", *values.values())  # noqa: S608 - ours


@pytest.fixture
def two_batches(ledger: Any) -> Any:
    """Extract of batch 1 runs from 0 to 10 s, that of batch 2, queued at 0 s as well, from 11 to 31 s."""
    add_batch(ledger, "batch_000001", ["STORED", "PARTIAL"])
    add_batch(ledger, "batch_000002", ["STORED", "QUARANTINED", "WAITING"], status="FAILED")
    add_run(ledger, "batch_000001", "extract", 0, 0, 10)
    add_run(ledger, "batch_000002", "extract", 0, 11, 31)
    add_run(ledger, "batch_000001", "convert", 10, 10, 14, outcome="FAILED", error="boom")
    add_run(ledger, "batch_000001", "convert", 20, 20, 25, attempt=2)
    add_run(ledger, "batch_000001", "store", 25, 25, 30, slot=0)
    add_run(ledger, "batch_000002", "store", 31, 32, 40, slot=1)
    return ledger


def test_status_shows_holders_and_the_queue_in_order(ledger: Any) -> None:
    for number in (1, 2, 3):
        add_batch(ledger, f"batch_00000{number}", ["WAITING"], status="EXTRACTING")
    add_run(ledger, "batch_000003", "extract", 5, None, None)
    add_run(ledger, "batch_000002", "extract", 2, None, None)
    add_run(ledger, "batch_000001", "extract", 0, 1, None)

    now = reports.status(ledger, limits={"store": 5})

    extract, convert, store = now.lanes
    assert (extract.limit, convert.limit, store.limit) == (1, 1, 5)
    assert [(run.batch_id, run.host, run.pid) for run in extract.holders] == [("batch_000001", "alpha", 42)]
    assert [run.batch_id for run in extract.queue] == ["batch_000002", "batch_000003"]
    assert extract.oldest_wait_sec == pytest.approx(extract.queue[0].wait_sec, abs=1)
    assert convert.holders == convert.queue == []
    assert now.batches == {"EXTRACTING": 3}


def test_every_received_file_is_counted_once(two_batches: Any) -> None:
    execute(
        two_batches,
        "INSERT INTO receipts (source_id, origin, duplicate)"
        " SELECT min(source_id), '', true FROM source_files",
    )
    execute(
        two_batches,
        "INSERT INTO source_files (sha256, name, size_bytes, stored_path) VALUES (%s, 'new', 1, '')",
        "0" * 64,
    )
    files = reports.status(two_batches).files
    assert (files.received, files.duplicates) == (5, 1)
    assert (files.stored, files.partial, files.quarantined) == (2, 1, 1)
    assert files.waiting == 2, "one in a batch, one without a batch"


def test_batches_are_listed_newest_first_and_by_status(two_batches: Any) -> None:
    assert [line.batch_id for line in reports.batches(two_batches)] == ["batch_000002", "batch_000001"]
    (failed,) = reports.batches(two_batches, status="FAILED")
    assert (failed.batch_id, failed.messages, failed.quarantined) == ("batch_000002", 90, 1)
    assert len(reports.batches(two_batches, limit=1)) == 1


def test_a_batch_is_shown_with_its_files_runs_and_resume_point(two_batches: Any) -> None:
    failed = reports.batch(two_batches, "batch_000002")
    assert [file.status for file in failed.files] == ["STORED", "QUARANTINED", "WAITING"]
    assert failed.resumes_at == "convert"
    done = reports.batch(two_batches, "batch_000001")
    assert done.resumes_at is None
    assert [(run.stage, run.attempt, run.outcome) for run in done.stage_runs][1] == ("convert", 1, "FAILED")
    assert done.stage_runs[1].error == "boom"
    with pytest.raises(BatchUnknown):
        reports.batch(two_batches, "batch_000009")


def test_timings_by_stage(two_batches: Any) -> None:
    extract, convert, store = reports.timings(two_batches, limits={"store": 2})
    assert (extract.group, extract.stage, extract.runs, extract.failed) == ("all", "extract", 2, 0)
    assert extract.wait_median == pytest.approx(5.5)
    assert extract.wait_p95 == pytest.approx(0.95 * 11)
    assert extract.duration_median == pytest.approx(15)
    assert extract.files_per_sec == pytest.approx(20 / 30)
    assert extract.mb_per_sec == pytest.approx(40 / 30)
    assert extract.utilisation == pytest.approx(30 / 40)
    assert extract.idle_sec == pytest.approx(1)
    assert (convert.runs, convert.failed) == (2, 1)
    assert convert.duration_median == pytest.approx(5), "of completed runs only"
    assert convert.utilisation == pytest.approx(9 / 40)
    assert convert.idle_sec == pytest.approx(0), "free, but no batch was waiting"
    assert store.utilisation == pytest.approx(13 / 2 / 40)
    assert store.idle_sec is None


def test_timings_by_batch_and_day_and_since(two_batches: Any) -> None:
    by_batch = reports.timings(two_batches, "batch")
    assert [(t.group[-1], t.stage) for t in by_batch] == [
        ("1", "extract"),
        ("1", "convert"),
        ("1", "store"),
        ("2", "extract"),
        ("2", "store"),
    ]
    assert {timing.group for timing in reports.timings(two_batches, "day")} == {"2026-03-01"}
    late = reports.timings(two_batches, since=T0 + timedelta(seconds=22))
    assert [(t.stage, t.runs, t.utilisation) for t in late] == [("store", 2, None)]
    assert reports.timings(two_batches, since=T0 + timedelta(days=1)) == []


def test_an_unfinished_run_counts_until_now(ledger: Any) -> None:
    add_batch(ledger, "batch_000001", ["WAITING"], status="EXTRACTING")
    execute(
        ledger,
        "INSERT INTO stage_runs (batch_id, stage, attempt, queued_at, fenced_at, started_at, host, pid)"
        " SELECT 'batch_000001', 'extract', 1, t, t, t, 'alpha', 1"
        " FROM (SELECT clock_timestamp() - interval '10 s') AS a (t)",
    )
    (timing,) = reports.timings(ledger)
    assert timing.duration_median is None
    assert timing.utilisation == pytest.approx(1, abs=0.05)


def test_the_summary_of_a_run_has_totals_reasons_and_errors(two_batches: Any) -> None:
    found = reports.summary(two_batches, RUN)
    assert (found.totals.files, found.totals.stored, found.totals.messages) == (5, 2, 150)
    assert found.elapsed_sec == pytest.approx(40)
    assert [batch.batch_id for batch in found.failed] == ["batch_000002"]
    assert [(file.name, file.status) for file in found.incomplete] == [
        ("batch_000002-1.zip", "QUARANTINED"),
        ("batch_000001-1.zip", "PARTIAL"),
    ]
    page = reports.summary_markdown(found)
    assert "| not &lt;a> ZIP \\| at all |" in page
    assert "exit status 3 \\| bad luck" in page
    assert "| extract | 2 | 0 | 5.50\xa0s |" in page  # no line breaks in figures


def list_again(
    ledger: Any, run: uuid.UUID, batch: str, seconds: float, from_stage: str | None = None
) -> None:
    """List a batch under another flow run, as a backfill does."""
    at = T0 + timedelta(seconds=seconds)
    row = (str(run), batch, at, from_stage, at if from_stage else None)
    execute(ledger, "INSERT INTO run_batches VALUES (%s, 0, %s, %s, %s, %s)", *row)


def test_stage_runs_of_one_batch_are_attributed_to_their_flow_runs(two_batches: Any) -> None:
    later = uuid.UUID(int=8)
    list_again(two_batches, later, "batch_000001", 100, "convert")
    add_run(two_batches, "batch_000001", "convert", 101, 102, 110)
    first, second = reports.summary(two_batches, RUN), reports.summary(two_batches, later)
    assert first.elapsed_sec == pytest.approx(40)
    assert [(timing.stage, timing.runs) for timing in second.stages] == [("convert", 1)]
    assert second.elapsed_sec == pytest.approx(9)
    assert "batch_000001 convert: waited 1.00 s" in timeline_svg(two_batches, flow_run_id=later)
    assert "batch_000001 extract" not in timeline_svg(two_batches, flow_run_id=later)
    assert "2 batches in 40.0 s" in timeline_svg(two_batches, flow_run_id=RUN)


def test_a_run_of_one_batch_has_a_summary_without_a_list(two_batches: Any) -> None:
    own = uuid.UUID(int=9)
    add_run(two_batches, "batch_000002", "store", 50, 50, 60, flow_run_id=str(own))
    found = reports.summary(two_batches, own)
    assert (found.totals.batches, found.elapsed_sec) == (1, pytest.approx(10))


def test_a_batch_resumes_at_the_first_stage_that_a_backfill_discarded(two_batches: Any) -> None:
    execute(two_batches, "UPDATE batch_processing SET status = 'QUEUED'")
    list_again(two_batches, uuid.UUID(int=8), "batch_000001", 100, "convert")
    assert reports.batch(two_batches, "batch_000001").resumes_at == "convert"
    add_run(two_batches, "batch_000001", "convert", 101, 102, 110)
    assert reports.batch(two_batches, "batch_000001").resumes_at == "store"


def test_the_summary_of_an_unknown_run_is_empty(ledger: Any) -> None:
    found = reports.summary(ledger, uuid.uuid4())
    assert found.totals.batches == 0
    assert "No stage run." in reports.summary_markdown(found)


def test_the_markdown_of_timings_has_a_row_per_stage_run(two_batches: Any) -> None:
    lines = reports.timings_markdown(two_batches, ["batch_000002"]).splitlines()
    assert lines[0].startswith("| Batch | Stage |")
    assert lines[2] == "| batch_000002 | extract | 1 | 11.0\xa0s | 20.0\xa0s | 10 | 20.0\xa0MB | COMPLETED |"
    assert len(lines) == 4


def test_status_works_without_a_prefect_server(two_batches: Any, tdp: Callable[..., Result]) -> None:
    add_run(two_batches, "batch_000002", "convert", 41, 41, None)
    page = tdp("status")
    assert page.exit_code == 0
    assert re.search(r"convert +1/1 +0 +– +batch_000002 .*alpha pid 42", page.stdout)
    assert re.search(r"store +0/\?", page.stdout)
    assert "1 COMPLETED, 1 FAILED" in page.stdout
    found = json.loads(tdp("status", "--json").stdout)
    assert found["files"]["received"] == 5
    assert found["lanes"][1]["holders"][0]["pid"] == 42


def test_batches_show_and_timings_print_tables_and_json(two_batches: Any, tdp: Callable[..., Result]) -> None:
    page = tdp("batches").stdout
    assert "batch_000001 COMPLETED" in page
    assert "batch_000002: exit status 3 | bad luck" in page
    assert [
        line["batch_id"] for line in json.loads(tdp("batches", "--status", "failed", "--json").stdout)
    ] == ["batch_000002"]
    page = tdp("show", "batch_000002").stdout
    assert "resumes at convert" in page
    assert "not <a> ZIP | at all" in page
    assert json.loads(tdp("show", "batch_000002", "--json").stdout)["resumes_at"] == "convert"
    assert tdp("timings", "--by", "batch").stdout.count("batch_00000") == 5
    assert json.loads(tdp("timings", "--since", "1h", "--json").stdout) == []


def test_a_narrow_terminal_shows_whole_ids_and_a_pipe_does_not_wrap(
    two_batches: Any, database_url: str, tmp_path: Path
) -> None:
    def page(command: str, columns: str | None) -> str:
        env = {"TDP_DATABASE_URL": database_url, "TDP_HOME": str(tmp_path), "COLUMNS": columns}
        return CliRunner().invoke(app, [command], env=env).stdout

    add_run(two_batches, "batch_000002", "convert", 41, 41, None)
    assert all("batch_000002" in page(command, "60") for command in ("batches", "status"))
    (row,) = [line for line in page("status", None).splitlines() if line.startswith("convert")]
    assert re.search(r"batch_000002 .*alpha pid 42", row)
    zone = f"{datetime.now().astimezone():%Z}"
    assert f"Created, {zone}" in page("batches", None)
    assert re.search(rf"at 20[-0-9]+ [0-9:]+ {re.escape(zone)}", page("status", None))


def test_a_cancelled_run_is_not_counted_as_failed(two_batches: Any, tdp: Callable[..., Result]) -> None:
    add_run(two_batches, "batch_000002", "convert", 41, 41, 42, outcome="CANCELLED")
    found = json.loads(tdp("timings", "--json").stdout)
    assert {lane["stage"]: (lane["runs"], lane["failed"]) for lane in found}["convert"] == (3, 1)


@pytest.mark.usefixtures("two_batches")
def test_the_timeline_is_a_file_that_others_may_read(tdp: Callable[..., Result], tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        make_private()
        assert tdp("timeline", tmp_path / "lanes.svg").exit_code == 0
    finally:
        os.umask(before)
    assert (tmp_path / "lanes.svg").stat().st_mode & 0o777 == 0o644


def test_a_path_that_cannot_be_used_is_named_without_a_traceback(database_url: str, tmp_path: Path) -> None:
    """The folder of a picture is missing; the socket of the database may not be opened."""
    no_folder, no_socket = tmp_path / "missing" / "lanes.svg", tmp_path / "closed"
    no_socket.mkdir(mode=0)
    for argument, url in [
        (no_folder, database_url),
        (tmp_path / "lanes.svg", f"postgresql://postgres@/tdp?host={no_socket}"),
    ]:
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", "timeline", argument],
            env=os.environ | {"TDP_DATABASE_URL": url, "TDP_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert str(argument if argument is no_folder else no_socket) in done.stderr.replace("\n", "")
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("args", [("timings", "--since", "soon"), ("batches", "--status", "lost"), ("show",)])
def test_usage_errors_exit_with_status_2(tdp: Callable[..., Result], args: tuple[str, ...]) -> None:
    assert tdp(*args).exit_code == 2


def test_an_unavailable_database_is_a_database_unavailable_error(tmp_path: Path) -> None:
    env = {"TDP_DATABASE_URL": f"postgresql://nobody@/none?host={tmp_path}", "TDP_HOME": str(tmp_path)}
    assert isinstance(CliRunner().invoke(app, ["batches"], env=env).exception, DatabaseUnavailable)


def test_new_changed_and_known_messages_are_shown(two_batches: Any, tdp: Callable[..., Result]) -> None:
    for batch, new in (("batch_000001", 5), ("batch_000002", 7)):
        counts = json.dumps({"rows_new": new, "rows_changed": 1, "rows_same": 2})
        execute(
            two_batches,
            "UPDATE stage_runs SET counts = %s WHERE stage = 'store' AND batch_id = %s",
            counts,
            batch,
        )
    for name, *values in (("batch_000001-0.zip", 20, 3, 7), ("batch_000002-0.zip", 0, 0, 30)):
        execute(
            two_batches,
            "UPDATE batch_files f SET rows_new = %s, rows_changed = %s, rows_same = %s FROM source_files s"
            " WHERE s.source_id = f.source_id AND s.name = %s",
            *values,
            name,
        )
    page = tdp("show", "batch_000001").stdout
    assert "messages: 5 new, 1 changed, 2 known" in page
    assert re.search(r"batch_000001-0.zip .* STORED +2 +30 +20 +3 +7", page)
    (first, *_) = json.loads(tdp("show", "batch_000001", "--json").stdout)["files"]
    assert (first["new"], first["changed"], first["known"]) == (20, 3, 7)
    assert json.loads(tdp("show", "batch_000002", "--json").stdout)["rows"] == {
        "new": 7,
        "changed": 1,
        "known": 2,
    }
    found = reports.summary(two_batches, RUN)
    assert (found.rows.new, found.rows.changed, found.rows.known) == (12, 2, 4)
    summary = reports.summary_markdown(found)
    assert "12 new, 2 changed, 4 known" in summary
    first_file = summary.index("| batch_000001-0.zip | 30 | 20 | 3 | 7 | batch_000001 |")
    assert first_file < summary.index("| batch_000002-0.zip | 30 | 0 | 0 | 30 | batch_000002 |")
