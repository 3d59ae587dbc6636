"""Reports on the ledger: lanes, batches, timings, the bot, and the summary of a run."""

from flows.reports.bots import BotStatus, bots
from flows.reports.files import Duplicate, LeftFile, SourceLine, duplicates, left_files, source_files
from flows.reports.overview import PassedOver, Settling, Status, batch, batches, clock, status
from flows.reports.summary import Summary, summary, summary_markdown
from flows.reports.timings import Timing, timings, timings_markdown

__all__ = [
    "BotStatus",
    "Duplicate",
    "LeftFile",
    "PassedOver",
    "Settling",
    "SourceLine",
    "Status",
    "Summary",
    "Timing",
    "batch",
    "batches",
    "bots",
    "clock",
    "duplicates",
    "left_files",
    "source_files",
    "status",
    "summary",
    "summary_markdown",
    "timings",
    "timings_markdown",
]
