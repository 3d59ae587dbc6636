"""What stages leave on disk: which outputs of a batch still serve, and how one is removed."""

from __future__ import annotations

import shutil
from pathlib import Path

from flows.domain import STAGES
from flows.stages.runner.contract import MANIFEST, read_result
from flows.stages.runner.crash_history import forget_crashes


def kept_stages(batch: Path, from_stage: str) -> list[str]:
    """Return the stages before ``from_stage`` whose outputs stand in the work directory ``batch``.

    Only without a gap: where an output is gone, the stages after it run again as well.
    """
    kept = []
    for stage in STAGES[: STAGES.index(from_stage)]:
        if read_result(batch / stage) is None:
            break
        kept.append(stage)
    return kept


def discard_outputs(batch: Path, kept: list[str]) -> None:
    """Remove the outputs in the work directory ``batch`` of all stages but those ``kept``."""
    for stage in STAGES:
        if stage not in kept:
            discard(batch / stage)
            forget_crashes(batch / stage)


def discard(output: Path) -> None:
    """Remove a stage's output. The manifest goes first: what a kill leaves is never taken for whole."""
    (output / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(output, ignore_errors=True)
