"""Timings, and the summary and the timeline of a run, on a ledger with known times."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from known_times import RUN, T0, add_batch, add_run, execute, list_again
from typer.testing import Result

from flows import reports
from flows.cli.umask import make_private
from flows.reports.timeline import timeline_svg


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


def test_the_summary_of_an_unknown_run_is_empty(ledger: Any) -> None:
    found = reports.summary(ledger, uuid.uuid4())
    assert found.totals.batches == 0
    assert "No stage run." in reports.summary_markdown(found)


def test_the_markdown_of_timings_has_a_row_per_stage_run(two_batches: Any) -> None:
    lines = reports.timings_markdown(two_batches, ["batch_000002"]).splitlines()
    assert lines[0].startswith("| Batch | Stage |")
    assert lines[2] == "| batch_000002 | extract | 1 | 11.0\xa0s | 20.0\xa0s | 10 | 20.0\xa0MB | COMPLETED |"
    assert len(lines) == 4


def test_a_cancelled_run_is_not_counted_as_failed(two_batches: Any, tdp: Callable[..., Result]) -> None:
    add_run(two_batches, "batch_000002", "convert", 41, 41, 42, outcome="CANCELLED")
    found = json.loads(tdp("timings", "--json").stdout)
    assert {lane["stage"]: (lane["runs"], lane["failed"]) for lane in found}["convert"] == (3, 1)


@pytest.mark.usefixtures("two_batches")
def test_the_timeline_is_a_file_that_others_may_read(tdp: Callable[..., Result], tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        make_private()
        for name in ("lanes.svg", "lanes.png"):
            assert tdp("timeline", tmp_path / name).exit_code == 0
    finally:
        os.umask(before)
    assert (tmp_path / "lanes.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "lanes.svg").stat().st_mode & 0o777 == 0o644
