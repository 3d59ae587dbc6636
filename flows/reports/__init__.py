"""Everything that reads the ledger to show it: lanes, batches, timings, a run's summary."""

from flows.reports.overview import Status, batch, batches, status
from flows.reports.summary import Summary, summary, summary_markdown
from flows.reports.timings import Timing, timings, timings_markdown

__all__ = [
    "Status",
    "Summary",
    "Timing",
    "batch",
    "batches",
    "status",
    "summary",
    "summary_markdown",
    "timings",
    "timings_markdown",
]
