"""One stage of one batch: through the gate, as a process, into the ledger."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from pathlib import Path
from uuid import UUID

import msgspec

from flows.batches.kept import put_back
from flows.batches.receiving import GONE
from flows.batches.runtime import Runtime
from flows.batches.workdir import discard
from flows.domain import Log
from flows.errors import StageCrashed, StageFailed, StageTimedOut
from flows.gate.gate import Held, gate
from flows.gate.process_lanes import lanes
from flows.ledger.batches import BatchSource, OwnedBatch
from flows.stages.runner.contract import FileOutcome, Result, entry_id, read_result, write_result
from flows.stages.runner.crash_history import clear_current_file, record_crash
from flows.stages.runner.output_lines import OutputLines


async def run_stage(
    stage: str,
    batch: OwnedBatch,
    runtime: Runtime,
    log: Log,
    flow_run_id: UUID | None = None,
    task_run_id: UUID | None = None,
) -> Result:
    """Run ``stage`` for ``batch`` unless its output exists already, and record the outcome of each file.

    Raises Retryable errors for transient causes, any other TdpError for permanent ones.
    """
    await batch.ensure_owned()
    output = runtime.directory(batch.batch_id, stage)
    if stage == "extract":
        await _fill_input(batch, runtime.input_of(stage, batch.batch_id), runtime.settings.inbox)
    result = await _left_by_a_dead_run(output)
    async with (
        lanes(batch.owner, runtime.settings.work_locks, is_yielding=runtime.yielding) as own_lanes,
        gate(
            stage,
            batch.batch_id,
            lanes=own_lanes,
            log=log,
            flow_run_id=flow_run_id,
            task_run_id=task_run_id,
            environment=runtime.environment(stage),
        ) as held,
    ):
        await batch.ensure_owned()  # once more: the wait may have been long
        result = result or read_result(output)
        if result is None:
            result = await _work(held, stage, batch.batch_id, runtime, log)
        held.counts = result.counts
    await batch.record(stage, result)
    return result


async def _left_by_a_dead_run(output: Path) -> Result | None:
    """Return the result of a run that died after its work was done; without one, clear its output away.

    No other process writes here: the next stage run of a batch waits until the work of the last one is gone.
    """
    result = read_result(output)
    if result is None:
        await asyncio.to_thread(discard, output)
        clear_current_file(output)
    return result


async def _work(held: Held, stage: str, batch_id: str, runtime: Runtime, log: Log) -> Result:
    """Run the stage's program behind the gate; return the result that it has left in its output."""
    output = runtime.directory(batch_id, stage)
    if held.supervisor:
        held.supervisor.on_output = OutputLines(lambda line: log.info("%s", line)).feed
    argv, timeout = runtime.argv(stage, batch_id), runtime.timeout(stage)
    try:
        done = await held.run(argv, timeout=timeout, memory=runtime.memory(stage))
    except (StageCrashed, StageTimedOut) as error:
        record_crash(output, str(error))
        raise
    return read_result(output) or _adopt(stage, runtime.input_of(stage, batch_id), output, done.stdout)


async def _fill_input(batch: OwnedBatch, directory: Path, inbox: Path) -> None:
    """Link the batch's source files into ``directory``; a missing one does not affect the others."""
    await batch.reset_files()
    sources = await batch.sources()
    await asyncio.to_thread(_empty, directory)
    missing = [
        FileOutcome(source.entry, "quarantined", f"{GONE}: {reason}")
        for source in sources
        if (reason := await asyncio.to_thread(_link, source, directory, inbox))
    ]
    if missing:
        await batch.record("extract", Result("extract", missing))


def _empty(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, mode=0o700)


def _link(source: BatchSource, directory: Path, inbox: Path) -> str | None:
    """Link a source file into ``directory``; return the reason if it is not there as it was received.

    A stored file that was changed since is put back into the inbox, to be received with its new content.
    """
    entry = directory / source.entry
    try:
        entry.hardlink_to(source.stored)
    except FileNotFoundError:
        return "copy it into the inbox again, and the batch runs again"
    except OSError:  # another file system
        entry.symlink_to(source.stored)
    with entry.open("rb") as file:
        same = os.fstat(file.fileno()).st_size == source.size
        if same and hashlib.file_digest(file, "sha256").hexdigest() == source.sha256:
            return None
    entry.unlink()
    back = put_back(source.stored, inbox / (Path(source.name).name or source.entry))
    return f"it was changed after it was received, and is received again from {back}"


def _adopt(stage: str, source: Path, output: Path, stdout: str) -> Result:
    """Give the output of an operator's program the manifest that says it is whole."""
    if not output.is_dir():
        raise StageFailed(f"the {stage} command ended with status 0 but left no output at {output}")
    lines = stdout.strip().splitlines() or [""]
    try:
        result = msgspec.json.decode(lines[-1], type=Result)
    except msgspec.DecodeError:
        result = Result(stage)
    if left_out := _left_out(stage, source, output, result):
        raise StageFailed(
            f"the {stage} command ended with status 0 but left out {', '.join(left_out)}: it must write"
            " something for each file of its input, or name the file in its result line"
        )
    write_result(output, result)
    return result


def _left_out(stage: str, source: Path, output: Path, result: Result) -> list[str]:
    """Return what is in neither output nor result, unless the program has names of its own for everything.

    Store's rows go elsewhere: its output may be empty.
    """
    before = read_result(source)
    refused = {file.name for file in before.files if file.status == "quarantined"} if before else set()
    names = [*(entry.name for entry in output.iterdir()), *(file.name for file in result.files)]
    named = {entry_id(name) for name in names} - {None}
    if not named and (names or stage == "store"):
        return []
    entries = sorted(entry.name for entry in source.iterdir() if entry.name not in refused)
    return [name for name in entries if entry_id(name) not in {None, *named}]
