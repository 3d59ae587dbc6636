"""Outputs in a batch's work directory: which of them can be reused, and how they are removed."""

from __future__ import annotations

import shutil
from pathlib import Path

from flows.domain import STAGES
from flows.stages.runner.contract import MANIFEST, read_result
from flows.stages.runner.crash_history import forget_crashes


def kept_stages(batch: Path, from_stage: str) -> list[str]:
    """Return the stages before ``from_stage`` whose complete outputs are in the work directory ``batch``.

    The list ends at the first missing output, because the stages after it must run again as well.
    """
    kept = []
    for stage in STAGES[: STAGES.index(from_stage)]:
        if read_result(batch / stage) is None:
            break
        kept.append(stage)
    return kept


def discard_outputs(batch: Path, kept: list[str]) -> None:
    """Remove the outputs of all stages except those ``kept`` from the work directory ``batch``."""
    for stage in STAGES:
        if stage not in kept:
            discard(batch / stage)
            forget_crashes(batch / stage)


def discard(output: Path) -> None:
    """Remove a stage's output, the manifest first, so that a partly removed output is never used."""
    (output / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(output, ignore_errors=True)
