"""Reports of the ledger as tables in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.cli.inbox_page import inbox_lines
from flows.cli.screen import Cells
from flows.operations.audit import Check
from flows.reports import Duplicate, text
from flows.reports.overview import BatchDetail, BatchFile, BatchLine, Files, Lane, OpenRun, Status
from flows.reports.summary import TIMING_HEADERS, timing_cells
from flows.reports.timings import Timing

_QUEUE_SHOWN = 8
#: Columns with the ids of batches, and the width in which a narrow terminal still shows an id completely.
_ID_HEADERS, _ID_WIDTH = ("Batch", "Holder"), len("batch_000001")
_COLOURS = {
    "COMPLETED": "green",
    "STORED": "green",
    "FAILED": "red",
    "QUARANTINED": "red",
    "PARTIAL": "yellow",
    "RETURNED": "yellow",
    "DROPPED": "yellow",
}


def plain_table(headers: Sequence[str], right: Iterable[int] = ()) -> Table:
    """Return a table without lines; the columns ``right`` are aligned to the right."""
    table = Cells(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    numeric = set(right)
    for index, header in enumerate(headers):
        least = _ID_WIDTH if header in _ID_HEADERS else None
        table.add_column(header, justify="right" if index in numeric else "left", min_width=least)
    return table


def coloured(status: str) -> Text:
    """Return a status in its colour."""
    return Text(status, style=_COLOURS.get(status, "cyan"))


def when(moment: datetime | None) -> str:
    """Return a time in the time zone of this machine, with the name of the zone."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}" if moment else text.NOTHING


def sent(moment: datetime | None) -> str:
    """Return the time of a message, in UTC as everywhere where the data are read."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if moment else text.NOTHING


def local_zone() -> str:
    """Return the name of this machine's time zone."""
    return f"{datetime.now().astimezone():%Z}"


def status_page(now: Status) -> RenderableType:
    """Return lanes, batches and files at one point in time."""
    files = now.files
    counts = ", ".join(f"{count:,} {name}" for name, count in now.batches.items()) or "none"
    left = f"; {now.left:,} left in their folders, see `tdp files --left`" if now.left else ""
    counts += f"; {now.held:,} held, see `tdp batches --held`" if now.held else ""
    return Group(
        _lanes_table(now.lanes),
        *_queues(now.lanes),
        *_foreign_holders(now),
        Text(),
        Text.assemble(("Batches: ", "bold"), counts),
        Text.assemble(
            ("Files: ", "bold"),
            f"{files.received:,} received: {files.stored:,} stored, {files.partial:,} in part, "
            f"{files.quarantined:,} quarantined{_decided(files)}, {files.waiting:,} waiting; "
            f"{text.count(files.duplicates, 'duplicate', 'duplicates')}",
            ", see `tdp files --duplicates`" if files.duplicates else "",
            left,
        ),
        *inbox_lines(now),
        Text(f"at {when(now.at)}", style="dim"),
    )


def _decided(files: Files) -> str:
    """Return the numbers of quarantined files about which an operator has decided, if there are any."""
    counts = {"returned": files.returned, "dropped": files.dropped}
    return "".join(f", {count:,} {decision}" for decision, count in counts.items() if count)


def stages_table(timings: Sequence[Timing]) -> Table:
    """Return one column per stage, which fits into 80 columns; a row of twelve figures does not."""
    columns = [timing_cells(timing) for timing in timings]
    table = plain_table(["", *(stage for stage, *_ in columns)], right=range(1, len(columns) + 1))
    for label, *figures in zip(TIMING_HEADERS[1:], *(cells[1:] for cells in columns), strict=True):
        table.add_row(label, *figures)
    return table


def groups_table(timings: Sequence[Timing], group: str) -> Table:
    """Return one row per group and stage, with medians only."""
    headers = (group, "Stage", "Runs", "Failed", "Cancelled", "Wait", "Duration", "Files/s", "MB/s", "Used")
    table = plain_table(headers, right=range(2, len(headers)))
    for timing in timings:
        table.add_row(
            timing.group,
            timing.stage,
            str(timing.runs),
            str(timing.failed),
            str(timing.cancelled),
            text.seconds(timing.wait_median),
            text.seconds(timing.duration_median),
            text.number(timing.files_per_sec, 2),
            text.number(timing.mb_per_sec, 2),
            text.percent(timing.utilisation),
        )
    return table


def verify_page(checks: Sequence[Check]) -> RenderableType:
    """Return every rule with its result, and the rows that break it."""
    table = Cells.grid(padding=(0, 1))
    for check in checks:
        mark, style = ("kept", "green") if check.is_kept else ("BROKEN", "red")
        if check.unchecked is not None:
            mark, style = "UNKNOWN", "yellow"
        table.add_row(Text(mark, style), Text(check.name, "bold"), check.rule)
        if check.unchecked is not None:
            table.add_row("", "", Text(check.unchecked))
        for row in check.offending:
            cells = (f"{name}={value}" for name, value in row.items() if value is not None)
            table.add_row("", "", Text("  ".join(cells)))
    return table


def _lanes_table(lanes: Sequence[Lane]) -> Table:
    headers = ("Lane", "Slots", "Waiting", "Longest", "Holder", "For", "Where")
    table = plain_table(headers, right=(2, 3, 5))
    for lane in lanes:
        first = lane.holders[0] if lane.holders else None
        oldest = text.seconds(lane.oldest_wait_sec) if lane.queue else text.NOTHING
        slots = f"{len(lane.holders)}/{lane.limit or '?'}"
        table.add_row(lane.stage, slots, str(len(lane.queue)), oldest, *_holder_cells(first))
        for run in lane.holders[1:]:
            table.add_row("", "", "", "", *_holder_cells(run))
    return table


def _queues(lanes: Sequence[Lane]) -> Iterator[Text]:
    for lane in lanes:
        if lane.queue:
            names = [_batch_and_attempt(run) for run in lane.queue[:_QUEUE_SHOWN]]
            more = len(lane.queue) - len(names)
            rest = f" and {more} more" if more else ""
            yield Text.assemble((f"Next for {lane.stage}: ", "bold"), ", ".join(names), rest)


def _foreign_holders(now: Status) -> Iterator[Text]:
    for one in now.foreign_holders:
        yield Text(
            f"The gate of {one.stage} is held by a session that is not a stage run: pid {one.pid}"
            f" of PostgreSQL, user {one.user}, application {one.application or text.NOTHING}."
            f" SELECT pg_terminate_backend({one.pid}) ends it.",
            style="yellow",
        )


def _holder_cells(run: OpenRun | None) -> tuple[str, str, str]:
    if run is None:
        return text.NOTHING, "", ""
    return (_batch_and_attempt(run), text.seconds(run.duration_sec), f"{run.host} pid {run.pid}")


def _batch_and_attempt(run: OpenRun) -> str:
    return run.batch_id if run.attempt == 1 else f"{run.batch_id} (attempt {run.attempt})"


def batches_page(batches: Sequence[BatchLine]) -> RenderableType:
    """Return one row per batch, and below the table the errors of failed and the reasons of held batches."""
    created = f"Created, {local_zone()}"
    headers = ("Batch", "Status", created, "Files", "Messages", "Extract", "Convert", "Store")
    table = plain_table(headers, right=range(3, 8))
    for batch in batches:
        table.add_row(
            batch.batch_id,
            coloured(batch.status) + (", held" if batch.held_at else ""),
            f"{batch.created_at.astimezone():%m-%d %H:%M}",
            str(batch.file_count),
            text.number(batch.messages, 0),
            text.seconds(batch.extract_duration_sec),
            text.seconds(batch.convert_duration_sec),
            text.seconds(batch.store_duration_sec),
        )
    errors = [(batch.batch_id, batch.error_message) for batch in batches]
    holds = [(batch.batch_id, _hold(batch)) for batch in batches]
    return Group(table, *_reasons(errors, 300), *_reasons(holds, 300))


def _hold(batch: BatchLine | BatchDetail) -> str | None:
    """Return since when and why a batch is held, and what continues it; None if it is not held."""
    if batch.held_at is None:
        return None
    return f"held since {when(batch.held_at)}, {batch.held_because}; to continue: tdp resume {batch.batch_id}"


def batch_page(found: BatchDetail) -> RenderableType:
    """Return one batch with its files and stage runs, and below each table their errors."""
    head = Text.assemble((found.batch_id, "bold"), "  ", coloured(found.status))
    if found.resumes_at:
        head.append(f"  resumes at {found.resumes_at}")
    lines = [
        f"created {when(found.created_at)}, started {when(found.started_at)}",
        f"completed {when(found.completed_at)}, flow run {found.flow_run_id or text.NOTHING}",
        f"messages: {found.rows}",
    ]
    files = [(f"{file.name} ({file.stage})", _outcome(file)) for file in found.files]
    runs = [(f"{run.stage}, attempt {run.attempt}", run.error) for run in found.stage_runs]
    return Group(
        head,
        *map(Text, lines),
        *_reasons([("error", found.error_message), ("hold", _hold(found))], 1000),
        Text(),
        _files_table(found),
        *_reasons(files, 300),
        *_again(found),
        Text(),
        _runs_table(found),
        *_reasons(runs, 1000),
    )


def _outcome(file: BatchFile) -> str | None:
    """Return why a file is not stored in full, and what an operator decided about it, with the time."""
    decided = ("dropped", file.dropped_at) if file.dropped_at else ("returned", file.returned_at)
    what, moment = decided
    if file.error is None or moment is None:
        return file.error
    return f"{what} {when(moment)}; {file.error}"


def _files_table(found: BatchDetail) -> Table:
    headers = ("File", "Size", "Outcome", "Chats", "Messages", "New", "Changed", "Known")
    table = plain_table(headers, right=(1, *range(3, 8)))
    for file in found.files:
        counts = (file.chats, file.messages, file.new, file.changed, file.known)
        table.add_row(
            Text(file.name),
            text.size(file.size_bytes),
            coloured(file.status),
            *(text.number(count, 0) for count in counts),
        )
    return table


def _again(found: BatchDetail) -> Iterator[Text]:
    for one in found.duplicates:
        yield Text.assemble(duplicate(one, in_batch=False), f", {when(one.received_at)} from {one.origin}")


def duplicate(one: Duplicate, *, in_batch: bool = True) -> Text:
    """Return in one line which file the duplicate has the content of, and which batch that file is in."""
    batch = f" ({one.batch_id or 'no batch yet'})" if in_batch else ""
    return Text.assemble(coloured("DUPLICATE"), f"  {one.name}: the content of {one.same_as}{batch}")


def _runs_table(found: BatchDetail) -> Table:
    headers = ("Stage", "Attempt", f"Queued, {local_zone()}", "Wait", "Duration", "Outcome", "Where")
    table = plain_table(headers, right=(1, 3, 4))
    for run in found.stage_runs:
        table.add_row(
            run.stage,
            str(run.attempt),
            f"{run.queued_at.astimezone():%H:%M:%S}",
            text.seconds(run.wait_sec),
            text.seconds(run.duration_sec),
            coloured(run.outcome or ("RUNNING" if run.started_at else "WAITING")),
            f"{run.host} pid {run.pid}",
        )
    return table


def _reasons(named: Iterable[tuple[str, str | None]], length: int) -> Iterator[Text]:
    """Yield one line per reason that is not empty; a table cell would be too narrow."""
    for name, reason in named:
        if reason:
            yield Text.assemble((name, "bold"), ": ", text.short(reason, length))
