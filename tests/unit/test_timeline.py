"""The picture of the lanes, and the spans from which it is drawn."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

import pytest

from flows.reports import spans
from flows.reports.picture import as_png, is_tall
from flows.reports.timeline import _tops, draw

T0 = datetime(2026, 3, 1, tzinfo=UTC)
STAGES = ["extract", "convert", "store"]
SVG = "{http://www.w3.org/2000/svg}"


def row(
    batch: int,
    queued: float,
    started: float | None,
    ended: float,
    *,
    stage: str = "extract",
    outcome: str | None = "COMPLETED",
    slot: int = 0,
) -> spans.Row:
    def at(seconds: float) -> datetime:
        return T0 + timedelta(seconds=seconds)

    return spans.Row(
        batch_id=f"batch_{batch:06d}",
        stage=stage,
        exclusive=stage != "store",
        slot=slot,
        attempt=1,
        outcome=outcome,
        queued_at=at(queued),
        started_at=None if started is None else at(started),
        ended_at=at(ended),
    )


def bars(picture: str, kind: str) -> list[ET.Element]:
    return [shape for shape in ET.fromstring(picture).iter(f"{SVG}rect") if shape.get("class") == kind]  # noqa: S314 - our own


def words(picture: str) -> list[str]:
    return [text.text or "" for text in ET.fromstring(picture).iter(f"{SVG}text")]  # noqa: S314 - our own


def test_as_png_it_has_its_letters_without_fonts_of_the_system() -> None:
    picture = draw([row(1, 0, 1, 10)], ["extract"])
    drawn = as_png(picture)
    assert drawn.startswith(b"\x89PNG")
    assert as_png(re.sub("<text.*?</text>", "", picture)) != drawn
    assert not is_tall(drawn)
    assert is_tall(as_png('<svg xmlns="http://www.w3.org/2000/svg" width="1" height="2"/>'))


def test_a_lane_has_an_idle_gap_only_while_a_batch_waits_and_none_runs() -> None:
    lane = spans.runs([row(1, 0, 1, 10), row(2, 5, 12, 20), row(3, 30, 30, 40), row(4, 39, None, 45)])
    assert spans.idle_gaps(lane) == [(0, 1), (10, 12), (40, 45)]


def test_overlapping_and_nested_runs_have_no_idle_gap() -> None:
    lane = spans.runs([row(1, 0, 0, 10), row(2, 0, 2, 4), row(3, 0, 9, 12), row(4, 0, 12, 13)])
    assert spans.idle_gaps(lane) == []


def test_the_queue_length_follows_the_waiters() -> None:
    lane = spans.runs([row(1, 0, 0, 10), row(2, 0, 10, 20), row(3, 4, 20, 30)])
    assert spans.depths(lane) == [(0, 0), (0, 1), (4, 2), (10, 1), (20, 0)]


def test_spans_are_cut_at_a_window() -> None:
    assert spans.clip([(0, 5), (5, 7), (8, 30)], (4, 10)) == [(4, 5), (5, 7), (8, 10)]


def test_every_run_has_a_bar_in_its_lane_and_in_its_batch() -> None:
    picture = draw([row(1, 0, 0, 10), row(2, 0, 12, 20), row(1, 10, 10, 15, stage="convert")], STAGES)
    assert len(bars(picture, "extract")) == 1 + 2 + 2, "one in the legend"
    assert len(bars(picture, "convert")) == 1 + 1 + 1
    assert len(bars(picture, "extract wait")) == 1, "batch 2 only"
    assert len(bars(picture, "idle")) == 1 + 1
    assert "90% busy, 2.00 s idle" in words(picture)
    assert "2 batches in 20.0 s" in words(picture)


def test_lengths_are_to_scale() -> None:
    picture = draw([row(1, 0, 0, 30), row(1, 30, 30, 40, stage="convert")], STAGES)
    widths = {kind: max(float(bar.get("width", 0)) for bar in bars(picture, kind)) for kind in STAGES[:2]}
    assert widths["extract"] == pytest.approx(3 * widths["convert"], rel=0.01)


def test_failed_and_running_runs_are_marked() -> None:
    picture = draw([row(1, 0, 0, 10, outcome="LOST"), row(1, 12, 12, 15, outcome=None)], STAGES)
    assert len(bars(picture, "failed")) == 1 + 2
    titles = [title.text or "" for title in ET.fromstring(picture).iter(f"{SVG}title")]  # noqa: S314 - our own
    assert "batch_000001 extract: waited 0.00 s, worked 10.0 s, LOST" in titles
    assert "batch_000001 extract: waited 0.00 s, worked 3.00 s, still at work" in titles


def test_a_cancelled_run_has_a_colour_of_its_own() -> None:
    picture = draw([row(1, 0, 0, 10, outcome="CANCELLED")], STAGES)
    assert (len(bars(picture, "cancelled")), len(bars(picture, "failed"))) == (1 + 2, 1)
    assert "idle gap" in words(picture)


def test_slots_of_a_lane_have_separate_rows() -> None:
    runs = [row(n, 0, 0, 10, stage="store", slot=n - 1) for n in (1, 2, 3)]
    tops = {bar.get("y") for bar in bars(draw(runs, STAGES), "store") if bar.get("height") != "16"}
    assert len(tops) == 1 + 3, "the legend's and three slots"


def test_many_batches_are_drawn_in_readable_windows() -> None:
    picture = draw([row(n, n * 10, n * 10, n * 10 + 9) for n in range(500)], STAGES)
    numbers = {text for text in words(picture) if text.isdigit()}
    assert {"123", "499"} <= numbers, "bars are wide enough for the batch's number"
    assert words(picture).count("extract") == 1 + 1 + 12, "legend, overview, windows"


def test_a_run_that_overtook_another_is_drawn() -> None:
    picture = draw([row(1, 0, 50, 60), row(2, 1, 1, 40)], STAGES)
    assert len(bars(picture, "extract")) == 1 + 2 + 2


def test_ten_thousand_batches_make_a_picture_of_bounded_size() -> None:
    rows = [row(n, n, n + 0.2, n + 1) for n in range(10_000)]
    rows += [row(n, n, n, n + 0.001, stage="store", outcome="FAILED") for n in range(10_000)]
    picture = draw(sorted(rows, key=lambda each: each.queued_at), STAGES)
    assert len(picture) < 8_000_000
    assert bars(picture, "failed")


def test_the_queue_is_drawn_to_its_last_length() -> None:
    assert _tops([(0, 0), (50, 1), (50.4, 0)]) == [(0, 0), (50, 1), (51.0, 0)], "it ended within a pixel"
    assert _tops([(0, 0), (0, 9), (0.1, 2), (50, 3), (50.1, 0), (90, 1)]) == [
        (0, 9),
        (1.0, 2),
        (50, 3),
        (51.0, 0),
        (90, 1),
    ]


def test_the_axis_fits_weeks_and_milliseconds() -> None:
    for span in (0.01, 0.5, 90, 86_400 * 30):
        ticks = [w for w in words(draw([row(1, 0, 0, span)], STAGES)) if ":" in w or w.endswith(".0 s")]
        assert 1 <= len(ticks) <= 2 * 13 + 2


def test_an_installation_without_runs_says_so() -> None:
    assert "No stage run" in words(draw([], STAGES))
