"""Stages that only copy their input, steered by files, and the stage runs that they had."""

from __future__ import annotations

import os
from pathlib import Path

from block_documents import write_stage
from ledger_rows import column

from flows.batches.workdir import STAGES
from flows.process_inbox import process_inbox
from flows.settings import Settings


async def steer(settings: Settings) -> Path:
    """Let files in the home steer the stages: ``seconds`` to sleep, ``broken`` convert; return the home."""
    here = settings.root
    (here / "seconds").write_text("0")
    for stage in STAGES:
        script = (
            "set -e; cp -rL {input} {output}.new; rm -f {output}.new/manifest.json; mv {output}.new {output}"
        )
        if stage == "convert":
            script = f"test ! -e {here}/broken || exit 64; {script}"
        script = f"sleep $(cat {here}/seconds); {script}"
        write_stage(stage, "sh", "-c", script)
    return here


def drop(settings: Settings, *names: str) -> None:
    settings.inbox.mkdir(parents=True, exist_ok=True)
    for name in names:
        file = settings.inbox / name
        file.write_text(name)
        os.utime(file, (1, 1))  # older than settle_seconds


async def load(settings: Settings) -> list[str]:
    """Process three batches of two files each; return their ids."""
    drop(settings, "a-1.zip", "a-2.zip", "b-1.zip", "b-2.zip", "c-1.zip", "c-2.zip")
    await process_inbox(batch_size=2)
    return column(settings, "SELECT batch_id FROM batch_processing ORDER BY batch_id")


def runs_of(settings: Settings, batch_id: str) -> list[str]:
    """Return the stages that a batch has run, in their order."""
    return column(settings, "SELECT stage FROM stage_runs WHERE batch_id = %s ORDER BY queued_at", batch_id)
