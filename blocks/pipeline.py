"""How the pipeline paces itself: one document, read at the start of each run."""

from __future__ import annotations

from typing import Self

from prefect.blocks.core import Block
from pydantic import Field

from flows.settings import FanOut, Settings

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

    def timeout_minutes(self, stage: str) -> float:
        """Return the time-out of ``stage`` (extract, convert or store)."""
        minutes: float = getattr(self, f"{stage}_timeout_minutes")
        return minutes
