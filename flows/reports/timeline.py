"""The timeline of the lanes as an SVG image: when stage runs waited and worked, and the idle gaps.

The image has its own background and colours for light and dark mode, so it looks the same in a browser, in
the Prefect UI and in a document. In a browser, the tooltip of a bar shows its batch, wait and duration.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

from flows.ledger.connection import Connection
from flows.ledger.named_sql import load, records
from flows.reports import spans, text
from flows.reports.spans import Lane, Run, Span

_sql = load("reports.sql")

_WIDTH, _LEFT, _RIGHT = 1200, 176, 24
_SLOT, _SHARED_SLOT, _QUEUE, _ROW = 24, 12, 18, 17
#: With more than _MAX_ROWS batches, the lanes in windows of time replace the rows per batch, each window with
#: about _RUNS_PER_WINDOW runs.
_MAX_ROWS, _RUNS_PER_WINDOW, _MAX_WINDOWS = 60, 45, 20
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200)
_DAY = 86400
#: The smallest width that can be seen, in pixels.
_MIN_WIDTH = 1.0
_STYLE = """
text { font: 11px system-ui, sans-serif; fill: #52525b } .strong { font-weight: 600; fill: #18181b }
.title { font-size: 15px } .end { text-anchor: end } .middle, .number { text-anchor: middle }
.number { fill: #ffffff; font-size: 10px } .paper { fill: #ffffff } .lane { fill: #f1f2f4 }
.grid { stroke: #e0e2e6 } .stripe { stroke: #d6293e } .wait { opacity: .3 } .queue { opacity: .35 }
.extract { fill: #3b6fd4 } .convert { fill: #c86b12 } .store { fill: #1f8a68 }
.failed { fill: #d6293e } .cancelled { fill: #83838d } .idle { fill: url(#hatch) }
@media (prefers-color-scheme: dark) {
text { fill: #a1a1aa } .strong { fill: #f4f4f5 } .number { fill: #101114 } .paper { fill: #17181c }
.lane { fill: #24262c } .grid { stroke: #34373f } .stripe { stroke: #ff6b78 }
.wait, .queue { opacity: .4 } .extract { fill: #7aa5ff } .convert { fill: #f2a54a } .store { fill: #45c79e }
.failed { fill: #ff5c6c } .cancelled { fill: #9d9da8 } }
"""


def timeline_svg(
    connection: Connection,
    *,
    flow_run_id: object | None = None,
    since: datetime | None = None,
) -> str:
    """Return the timeline of a flow run, or of all stage runs queued since a time."""
    ids = _sql.run_stage_runs(connection, flow_run_id=str(flow_run_id)) if flow_run_id else None
    rows = records(_sql.stage_runs(connection, ids=ids, batch_ids=None, since=since), spans.Row)
    return draw(rows, [row["stage"] for row in _sql.lanes(connection)])


def draw(rows: Sequence[spans.Row], stages: Sequence[str]) -> str:
    """Return the timeline of ``rows`` (oldest first), with the lanes in the order of ``stages``."""
    picture = _Picture()
    if not rows:
        return picture.finish("No stage run")
    runs = spans.runs(rows)
    end = max(0.1, *(run.work[1] for run in runs))
    lanes = spans.lanes(runs, stages)
    batches = len({row.batch_id for row in rows})
    picture.legend(lane.stage for lane in lanes)
    picture.lanes(lanes, (0.0, end))
    if batches <= _MAX_ROWS:
        picture.batches(runs)
    else:
        windows = min(_MAX_WINDOWS, math.ceil(max(len(lane.runs) for lane in lanes) / _RUNS_PER_WINDOW))
        for number in range(windows):
            picture.lanes(lanes, (number * end / windows, (number + 1) * end / windows))
    first, last = rows[0].queued_at.astimezone(UTC), max(row.ended_at for row in rows).astimezone(UTC)
    pattern = "%H:%M:%S" if first.date() == last.date() else "%Y-%m-%d %H:%M:%S"
    return picture.finish(
        f"{text.count(batches, 'batch', 'batches')} in {text.seconds(end)}",
        f"{first:%Y-%m-%d %H:%M:%S} to {last:{pattern}} UTC",
    )


class _Picture:
    """An SVG image that grows downwards from ``_y``; ``_x(seconds)`` is the position of a moment."""

    def __init__(self) -> None:
        self._svg = ET.Element("svg", xmlns="http://www.w3.org/2000/svg", width=str(_WIDTH))
        ET.SubElement(self._svg, "style").text = _STYLE
        hatch = {"id": "hatch", "width": "5", "height": "5", "patternUnits": "userSpaceOnUse"}
        pattern = ET.SubElement(self._svg, "pattern", hatch, patternTransform="rotate(45)")
        ET.SubElement(pattern, "path", {"class": "stripe", "d": "M0 0V5", "stroke-width": "2.5"})
        self._paper = ET.SubElement(self._svg, "rect", {"class": "paper", "width": str(_WIDTH)})
        self._window: Span = (0.0, 1.0)
        self._y = 40.0

    def legend(self, stages: Iterable[str]) -> None:
        """Draw the legend of the colours."""
        entries = [(stage, stage) for stage in stages]
        entries += [
            ("failed", "failed, timed out or lost"),
            ("cancelled", "cancelled"),
            ("idle", "idle gap"),
        ]
        x = float(_LEFT)
        for kind, label in entries:
            self._rect(kind, x, self._y, 12, 12)
            self._text(label, x + 17, self._y + 10)
            x += 17 + 6.2 * len(label) + 18
        self._text("pale: waiting", x, self._y + 10)
        self._y += 32

    def lanes(self, lanes: Sequence[Lane], window: Span) -> None:
        """Draw all lanes within ``window``."""
        self._window = window
        peak = max(depth for lane in lanes for _, depth in lane.depths)
        with self._grid():
            for lane in lanes:
                self._lane(lane, peak)

    def batches(self, runs: Sequence[Run]) -> None:
        """Draw one row per batch, pale while it waits."""
        first = {run.row.batch_id: run for run in reversed(runs)}
        rows = {batch: index for index, batch in enumerate(dict.fromkeys(run.row.batch_id for run in runs))}
        with self._grid():
            self._text("batches", 16, self._y + 12, "strong")
            self._text("in order of queueing", 16, self._y + 26)
            for run in runs:
                y = self._y + rows[run.row.batch_id] * _ROW
                if run is first[run.row.batch_id]:
                    self._text(run.number, _LEFT - 8, y + 12, "end")
                self._bar(f"{run.row.stage} wait", run, run.wait, y + 5, _ROW - 11)
                self._bar(_kind(run), run, run.work, y + 0.5, _ROW - 1)
            self._y += len(rows) * _ROW

    def finish(self, title: str, subtitle: str = "") -> str:
        """Return the complete SVG document."""
        self._text(title, 16, 24, "strong title")
        self._text(subtitle, _WIDTH - _RIGHT, 24, "end")
        height = f"{self._y + 16:.0f}"
        self._paper.set("height", height)
        self._svg.set("height", height)
        self._svg.set("viewBox", f"0 0 {_WIDTH} {height}")
        return ET.tostring(self._svg, encoding="unicode")

    @contextmanager
    def _grid(self) -> Iterator[None]:
        """Draw a time axis above the contents of the block, and a grid behind them."""
        begin, end = self._window
        step = next(
            (tick for tick in _TICKS if (end - begin) / tick <= 12),
            _DAY * math.ceil((end - begin) / _DAY / 12),
        )
        ticks = [number * step for number in range(math.ceil(begin / step), int(end / step) + 1)]
        for tick in ticks:
            self._text(_moment(tick, step), self._x(tick), self._y, "middle")
        grid = ET.SubElement(self._svg, "path", {"class": "grid"})
        self._y = top = self._y + 8
        yield
        grid.set("d", "".join(f"M{self._x(tick):.1f} {top:.0f}V{self._y:.0f}" for tick in ticks))
        self._y += 24

    def _lane(self, lane: Lane, peak: int) -> None:
        """Draw one row per slot, the idle gaps, and the length of the queue."""
        height = _SLOT if lane.is_exclusive else _SHARED_SLOT
        slots = 1 + max(run.row.slot for run in lane.runs)
        idle = spans.clip(lane.idle_gaps, self._window) if lane.is_exclusive else []
        self._text(lane.stage, 16, self._y + 14, "strong")
        self._text(self._use(lane, idle), 16, self._y + 28)
        self._rect("lane", _LEFT, self._y, _WIDTH - _LEFT - _RIGHT, slots * height)
        drawn: dict[tuple[int, str], float] = {}
        for run in lane.within(self._window):
            place, right = (run.row.slot, _kind(run)), self._x(run.work[1])
            if right - drawn.get(place, 0.0) < _MIN_WIDTH:
                continue  # of several runs within this width, only one is drawn
            drawn[place] = right
            self._bar(_kind(run), run, run.work, self._y + run.row.slot * height + 1, height - 2, gap=0.5)
            self._number(run, self._y + run.row.slot * height + height / 2)
        for begin, end in idle:
            if self._x(end) - self._x(begin) > _MIN_WIDTH:
                self._rect("idle", self._x(begin), self._y + 1, self._x(end) - self._x(begin), height - 2)
        self._y += slots * height + 2
        self._queue(lane.stage, lane.depths, peak)

    def _use(self, lane: Lane, idle: Sequence[Span]) -> str:
        begin, end = self._window
        busy = _length(spans.clip((run.work for run in lane.runs), self._window)) / (end - begin)
        if not lane.is_exclusive:
            return f"{busy:.1f} at work on average"
        return f"{busy:.0%} busy, {text.seconds(_length(idle))} idle"

    def _bar(self, kind: str, run: Run, span: Span, y: float, height: float, gap: float = 0.0) -> None:
        for begin, end in spans.clip([span], self._window):
            width = self._x(end) - self._x(begin) - gap  # keeps adjacent bars distinct
            bar = self._rect(kind, self._x(begin), y, max(width, 0.4), height)
            ET.SubElement(bar, "title").text = run.description

    def _number(self, run: Run, y: float) -> None:
        for begin, end in spans.clip([run.work], self._window):
            if self._x(end) - self._x(begin) > 6.5 * len(run.number) + 2:
                self._text(run.number, (self._x(begin) + self._x(end)) / 2, y + 3.5, "number")

    def _queue(self, stage: str, depths: Sequence[tuple[float, int]], peak: int) -> None:
        begin, end = self._window
        before = [depth for moment, depth in depths if moment <= begin]
        steps = [(begin, before[-1]), *(step for step in depths if begin < step[0] <= end)]
        highest = max(depth for _, depth in steps)
        self._text(f"queue, at most {highest}", 16, self._y + _QUEUE - 3)
        base = self._y + _QUEUE
        tops = _tops([(self._x(moment), depth) for moment, depth in steps])
        path = "".join(f"H{x:.1f}V{base - depth / max(peak, 1) * _QUEUE:.1f}" for x, depth in tops)
        shape = {"class": f"{stage} queue", "d": f"M{_LEFT} {base:.1f}{path}H{self._x(end):.1f}V{base:.1f}Z"}
        ET.SubElement(self._svg, "path", shape)
        self._y += _QUEUE + 10

    def _x(self, seconds: float) -> float:
        begin, end = self._window
        return _LEFT + (seconds - begin) / (end - begin) * (_WIDTH - _LEFT - _RIGHT)

    def _rect(self, kind: str, x: float, y: float, width: float, height: float) -> ET.Element:
        values = {"x": x, "y": y, "width": width, "height": height}
        shape = {name: f"{value:.2f}".rstrip("0").rstrip(".") for name, value in values.items()}
        return ET.SubElement(self._svg, "rect", {"class": kind} | shape)

    def _text(self, words: str, x: float, y: float, kind: str = "") -> None:
        place = {"x": f"{x:.1f}", "y": f"{y:.1f}"} | ({"class": kind} if kind else {})
        ET.SubElement(self._svg, "text", place).text = words


def _tops(steps: Iterable[tuple[float, int]]) -> list[tuple[float, int]]:
    """Return a queue's lengths over x; of changes within _MIN_WIDTH, only the highest and the last."""
    tops: list[tuple[float, int]] = []
    last = 0
    for x, depth in steps:
        if tops and x - tops[-1][0] < _MIN_WIDTH:
            tops[-1] = (tops[-1][0], max(depth, tops[-1][1]))
        else:
            if tops and last != tops[-1][1]:
                tops.append((tops[-1][0] + _MIN_WIDTH, last))
            tops.append((x, depth))
        last = depth
    if tops and last != tops[-1][1]:
        tops.append((tops[-1][0] + _MIN_WIDTH, last))
    return tops


def _kind(run: Run) -> str:
    if run.row.outcome == "CANCELLED":
        return "cancelled"
    return "failed" if run.has_failed else run.row.stage


def _length(parts: Iterable[Span]) -> float:
    return sum(end - begin for begin, end in parts)


def _moment(seconds: float, step: float) -> str:
    if step < 1:
        return f"{seconds:.1f} s"
    hours, minutes, rest = int(seconds // 3600), int(seconds % 3600 // 60), int(seconds % 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
