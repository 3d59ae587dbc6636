"""The settings of the pipeline: one block document, read at the start of each run."""

from __future__ import annotations

from typing import Self

from prefect.blocks.core import Block
from pydantic import Field, SecretStr, field_validator

from flows.domain import FanOut
from flows.settings import Settings, checked_zone

#: Name of the block document that every run reads.
PIPELINE = "tdp"


class PipelineConfig(Block):
    """Sizes, timeouts, retries and retention of the pipeline. A change takes effect with the next run."""

    _block_type_name = "TDP pipeline"
    _block_type_slug = "tdp-pipeline"
    _description = (
        "Sizes, timeouts, retries and retention of the pipeline. A change takes effect with the next run."
    )

    batch_size: int = Field(
        default=10,
        title="Batch size",
        ge=1,
        le=1000,
        description="Source files per batch. The parameter batch_size of a run overrides it.",
    )
    window: int = Field(
        default=8,
        title="Batches in flight",
        ge=1,
        le=1000,
        description="Batches that one run processes at the same time. More batches need more disk space;"
        " too few leave stages idle.",
    )
    fan_out: FanOut = Field(
        default="process",
        title="Where batches run",
        description="process: in the process of the run, on one host. work-pool: each batch as a flow run of"
        " its own, on any worker. Such a run takes seconds to start, so allow more batches in flight.",
    )
    settle_seconds: float = Field(
        default=2.0,
        title="Settle time (s)",
        ge=0,
        le=3600,
        description="A file that changed more recently may still be being copied; the next run receives it.",
    )
    quiet_seconds: float = Field(
        default=30.0,
        title="Quiet time of files of other users (s)",
        ge=0,
        le=3600,
        description="Where the kernel does not say whether a file is open for writing (it belongs to another"
        " user, or its file system has no leases), the file must not change for this time. If its writer"
        " continues within an hour, the complete file is received again. Folders are treated likewise.",
    )
    extract_timeout_minutes: float = Field(
        default=30,
        title="Timeout of extract (min)",
        gt=0,
        description="The stage of one batch is ended after this time.",
    )
    convert_timeout_minutes: float = Field(
        default=30,
        title="Timeout of convert (min)",
        gt=0,
        description="The stage of one batch is ended after this time.",
    )
    store_timeout_minutes: float = Field(
        default=60,
        title="Timeout of store (min)",
        gt=0,
        description="The stage of one batch is ended after this time.",
    )
    memory_mb: int | None = Field(
        default=None,
        title="Memory of a stage's process (MiB)",
        ge=64,
        description=(
            "Maximum address space of each process of a stage; Arrow and Java reserve more than they use. "
            "Empty: no limit; if the machine runs out of memory, the kernel kills the stage first."
        ),
    )
    task_retries: int = Field(
        default=3,
        title="Retries",
        ge=0,
        le=20,
        description="Retries of a stage after a retryable error, with increasing delays.",
    )
    unpack_media: bool = Field(
        default=False,
        title="Unpack media",
        description="Unpack photos, voice messages and other files too. Off: they are only listed.",
    )
    max_unpacked_gb: float = Field(
        default=64,
        title="Maximum unpacked size (GB)",
        gt=0,
        description="A source file that unpacks to more is quarantined. Archives within archives count.",
    )
    max_ratio: int = Field(
        default=200,
        title="Maximum unpacked-to-packed ratio",
        ge=1,
        description="A source file that unpacks to more than this many times its own size is quarantined."
        " Checked above 256 MB of unpacked data.",
    )
    max_entries: int = Field(
        default=300_000,
        title="Maximum files in a source file",
        ge=1,
        le=5_000_000,
        description="Counted in all archives within it. Each file needs about 1 KB of memory in extract.",
    )
    max_folder_depth: int = Field(
        default=32,
        title="Maximum depth of folders",
        ge=1,
        le=500,
        description="Deeper files of an archive are left out, and reported for the source file.",
    )
    max_nesting: int = Field(
        default=3,
        title="Maximum nesting of archives",
        ge=0,
        le=10,
        description="Deeper archives are left out, and reported for the source file. 0: none is opened.",
    )
    html_zone: str = Field(
        default="",
        title="Time zone of HTML exports",
        description="IANA name, for example Europe/Berlin, of the zone in which HTML exports were made: HTML"
        " has wall-clock times and at most the offset of standard time. Empty: sent_at is null if it is not"
        " certain. Batches converted before need `tdp backfill --from convert`.",
    )

    convert_readers: int = Field(
        default=0,
        title="Processes that read in convert",
        ge=0,
        le=64,
        description="Each takes up to 150 MB of memory. 0: one per processor that is idle when the stage"
        " starts, if the batch is large enough. The rows do not depend on the number.",
    )

    notify_urls: SecretStr | None = Field(
        default=None,
        title="Notify of batches (Apprise URLs)",
        description="Services that are notified when a batch has completed or failed: e-mail, ntfy, Slack, …"
        " as Apprise URLs, separated by spaces, for example ntfy://exports"
        " mailto://user:password@example.com. Conditions and failed runs go to the block tdp-notify.",
    )
    keep_work_hours: float = Field(
        default=1,
        title="Keep work of completed batches (h)",
        ge=0,
        description="Output of the stages is removed afterwards; a later backfill starts with extract.",
    )
    keep_failed_work_days: float = Field(
        default=7,
        title="Keep work of failed batches (days)",
        ge=0,
        description="A later retry starts with extract.",
    )
    keep_sources_days: float = Field(
        default=30,
        title="Keep source files (days)",
        ge=0,
        description="Source files of completed batches are removed afterwards; no backfill can read them.",
    )
    keep_runs_days: float = Field(
        default=30,
        title="Keep runs in Prefect (days)",
        gt=0,
        description="Flow runs that ended earlier are deleted in Prefect. The ledger keeps its own records.",
    )

    @field_validator("html_zone")
    @classmethod
    def _check_zone(cls, zone: str) -> str:
        return checked_zone(zone)

    @classmethod
    def seed(cls, settings: Settings) -> Self:
        """Return the block document of a new installation."""
        return cls(
            batch_size=settings.batch_size,
            window=settings.window,
            fan_out=settings.fan_out,
            settle_seconds=settings.settle_seconds,
            html_zone=settings.html_zone,
        )

    def extract_options(self) -> list[str]:
        """Return the command-line options of the built-in extract."""
        return [
            *(["--media"] if self.unpack_media else []),
            f"--max-bytes={self.max_unpacked_gb * 10**9:.0f}",
            f"--max-ratio={self.max_ratio}",
            f"--max-entries={self.max_entries}",
            f"--max-depth={self.max_folder_depth}",
            f"--max-nesting={self.max_nesting}",
        ]

    def options(self, stage: str) -> list[str]:
        """Return the command-line options of the built-in program of ``stage``."""
        if stage == "extract":
            return self.extract_options()
        if stage != "convert":
            return []
        return [
            *([f"--html-zone={self.html_zone}"] if self.html_zone else []),
            *([f"--readers={self.convert_readers}"] if self.convert_readers else []),
        ]

    def timeout_minutes(self, stage: str) -> float:
        """Return the timeout of ``stage`` (extract, convert or store)."""
        minutes: float = getattr(self, f"{stage}_timeout_minutes")
        return minutes
