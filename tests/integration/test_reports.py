"""Status, batches and files as reports and commands show them, on a ledger with known times."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from known_times import RUN, add_batch, add_run, execute, list_again
from typer.testing import CliRunner, Result

from flows import reports
from flows.cli.reports import app
from flows.errors import BatchUnknown, DatabaseUnavailable
from flows.ledger.locks import FENCE, fence_key


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


def test_a_session_that_holds_a_fence_but_is_not_a_stage_run_is_named(
    ledger: Any, tdp: Callable[..., Result]
) -> None:
    ours = psycopg2.connect(ledger.dsn, application_name="tdp extract batch_000001")
    stranger = psycopg2.connect(ledger.dsn, application_name="someone")
    execute(ours, "SELECT pg_advisory_lock(%s, %s)", FENCE, fence_key(1))
    execute(stranger, "SELECT pg_advisory_lock(%s, %s)", FENCE, fence_key(2))
    (found,) = reports.status(ledger).foreign_holders
    assert (found.stage, found.pid, found.application) == ("convert", stranger.info.backend_pid, "someone")
    assert "The gate of convert is held by a session that is not a stage run: pid" in tdp("status").stdout
    ours.close()
    stranger.close()


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


def test_a_batch_resumes_at_the_first_stage_that_a_backfill_discarded(two_batches: Any) -> None:
    execute(two_batches, "UPDATE batch_processing SET status = 'QUEUED'")
    list_again(two_batches, uuid.UUID(int=8), "batch_000001", 100, "convert")
    assert reports.batch(two_batches, "batch_000001").resumes_at == "convert"
    add_run(two_batches, "batch_000001", "convert", 101, 102, 110)
    assert reports.batch(two_batches, "batch_000001").resumes_at == "store"


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


def test_the_timeline_names_the_file_that_it_has_written(tdp: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "lanes.png"
    assert tdp("timeline", str(out)).stdout.startswith(f"{out}: ")
    assert out.read_bytes().startswith(b"\x89PNG")


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
    running_again = json.loads(tdp("show", "batch_000002", "--json").stdout)["rows"]
    assert running_again == {"new": 0, "changed": 0, "known": 0}, (
        "what an earlier run of it stored is not its own"
    )
    execute(two_batches, "UPDATE batch_processing SET status = 'COMPLETED' WHERE batch_id = 'batch_000002'")
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
