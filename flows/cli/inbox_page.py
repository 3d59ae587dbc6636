"""The lines of `tdp status` about the inbox."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from flows.reports import Settling, Status, text


def inbox_lines(now: Status) -> Iterator[Text]:
    """Yield a line for each entry of the inbox that was not received: when it will be, or why it will not."""
    for entry in now.settling:
        kind = "a folder" if entry.is_folder else "a file"
        yield _line(entry.name, f"{kind}, {_state(entry)}")
    if now.settling_more:
        more = "more in the inbox" if now.settling else "entries in the inbox"
        yield Text(f"{'and ' if now.settling else ''}{now.settling_more:,} {more}")
    for over in now.passed_over:
        yield _line(over.name, over.reason)
    if (left := now.passed_over_all - len(now.passed_over)) > 0:
        yield Text(f"and {left:,} more that are hidden or have names of unfinished files")
    if now.kept:
        kept = text.count(now.kept, "received original", "received originals")
        yield _line(
            ".tdp-kept-…", f"{kept}, removed an hour after that, or received again if changed by then"
        )


def _line(name: str, state: str) -> Text:
    return Text.assemble(("In the inbox: ", "bold"), f"{name}: {state}")


def _state(entry: Settling) -> str:
    if entry.is_open:
        return "open for writing, received when it is closed"
    if entry.is_complete:
        return "not open for writing, the next run receives it"
    quiet = f"{entry.quiet_sec:g} s" if entry.quiet_sec is not None else "the quiet time"
    so_far = f" ({entry.unchanged_sec:.0f} s so far)" if entry.unchanged_sec is not None else ""
    return f"received when it has not changed for {quiet}{so_far}"
