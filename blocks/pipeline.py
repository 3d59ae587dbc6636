"""How the pipeline paces itself: one document, read at the start of each run."""

from __future__ import annotations

from typing import Self

from prefect.blocks.core import Block
from pydantic import Field

from flows.domain import FanOut
from flows.settings import Settings

#: Name of the document that every run reads.
PIPELINE = "tdp"


class PipelineConfig(Block):
    """Sizes, time-outs, retries and retention of the pipeline. A change holds from the next run on."""

    _block_type_name = "TDP pipeline"
    _block_type_slug = "tdp-pipeline"
    _description = (
        "Sizes, time-outs, retries and retention of the pipeline. A change holds from the next run on."
    )

    batch_size: int = Field(
        default=10,
        title="Batch size",
        ge=1,
        le=1000,
        description="Source files per batch. A run's own parameter of that name goes before it.",
    )
    window: int = Field(
        default=8,
        title="Batches in flight",
        ge=1,
        le=1000,
        description="Batches one run works on at once: enough to keep every stage busy, few for the disk.",
    )
    fan_out: FanOut = Field(
        default="process",
        title="Where batches run",
        description="process: in the process of the run, on one host. work-pool: each batch as a run of its"
        " own, on any worker. That takes seconds to begin: allow more batches in flight.",
    )
    settle_seconds: float = Field(
        default=2.0,
        title="Settle time (s)",
        ge=0,
        le=3600,
        description="A file that changed within this time may still be on its way in and is left for later.",
    )
    extract_timeout_minutes: float = Field(
        default=30,
        title="Time-out of extract (min)",
        gt=0,
        description="One batch is ended after this.",
    )
    convert_timeout_minutes: float = Field(
        default=30,
        title="Time-out of convert (min)",
        gt=0,
        description="One batch is ended after this.",
    )
    store_timeout_minutes: float = Field(
        default=60,
        title="Time-out of store (min)",
        gt=0,
        description="One batch is ended after this.",
    )
    memory_mb: int | None = Field(
        default=None,
        title="Memory of a stage's process (MiB)",
        ge=64,
        description=(
            "Address space each process of a stage may have; Arrow and Java reserve more than they use. "
            "Empty: no limit; a machine that runs out of memory ends the stage before anything else."
        ),
    )
    task_retries: int = Field(
        default=3,
        title="Retries",
        ge=0,
        le=20,
        description="How often a stage is tried again after an error that can go away, with growing pauses.",
    )
    unpack_media: bool = Field(
        default=False,
        title="Unpack media",
        description="Also unpack photos, voice messages and files. Off: they are only listed.",
    )
    max_unpacked_gb: float = Field(
        default=64,
        title="Unpacked, at most (GB)",
        gt=0,
        description="What one source file may unpack to, archives within archives included; else quarantine.",
    )
    max_ratio: int = Field(
        default=200,
        title="Unpacked to packed, at most",
        ge=1,
        description="How many times its own size a source file may unpack to. It counts from 256 MB on.",
    )
    max_entries: int = Field(
        default=300_000,
        title="Files in one source file, at most",
        ge=1,
        le=5_000_000,
        description="In all archives within it. Each takes about 1 KB of memory in extract.",
    )
    max_folder_depth: int = Field(
        default=32,
        title="Folders within folders, at most",
        ge=1,
        le=500,
        description="What lies deeper in an archive is left out and named.",
    )
    max_nesting: int = Field(
        default=3,
        title="Archives within archives, at most",
        ge=0,
        le=10,
        description="An archive that lies deeper is left out and named. 0: none is opened.",
    )

    keep_work_hours: float = Field(
        default=1,
        title="Keep work of completed batches (h)",
        ge=0,
        description="What the stages wrote is removed then; a backfill later than that begins with extract.",
    )
    keep_failed_work_days: float = Field(
        default=7,
        title="Keep work of failed batches (days)",
        ge=0,
        description="A retry later than that begins with extract.",
    )
    keep_sources_days: float = Field(
        default=30,
        title="Keep source files (days)",
        ge=0,
        description="Received files of completed batches are removed then; no backfill can read them again.",
    )
    keep_runs_days: float = Field(
        default=30,
        title="Keep runs in Prefect (days)",
        gt=0,
        description="Runs that ended before that are deleted in Prefect. The ledger keeps its own.",
    )

    @classmethod
    def seed(cls, settings: Settings) -> Self:
        """Return the document that a new installation begins with."""
        return cls(
            batch_size=settings.batch_size,
            window=settings.window,
            fan_out=settings.fan_out,
            settle_seconds=settings.settle_seconds,
        )

    def extract_options(self) -> list[str]:
        """Return the options of the built-in extract."""
        return [
            *(["--media"] if self.unpack_media else []),
            f"--max-bytes={self.max_unpacked_gb * 10**9:.0f}",
            f"--max-ratio={self.max_ratio}",
            f"--max-entries={self.max_entries}",
            f"--max-depth={self.max_folder_depth}",
            f"--max-nesting={self.max_nesting}",
        ]

    def timeout_minutes(self, stage: str) -> float:
        """Return the time-out of ``stage`` (extract, convert or store)."""
        minutes: float = getattr(self, f"{stage}_timeout_minutes")
        return minutes
