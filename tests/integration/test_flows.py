"""Runs from the inbox to rows, on a real Prefect server: the outcome of every file and every batch."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ledger_rows import query
from prefect import Task
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.states import State
from stage_commands import FAIL_WHILE, command, configure, drop

from flows.errors import BatchesFailed
from flows.process_batch import process_batch
from flows.process_inbox import process_inbox
from flows.samples import write_samples
from flows.settings import Settings


async def test_every_file_ends_stored_or_quarantined_and_only_once(
    installation: Settings, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    expected = write_samples(inbox, files=6, messages=20, seed=7, broken=3)
    forged = "\n\x1b[2J\u202e"
    broken = {name for name, file in expected.by_file.items() if file.outcome != "ok"}
    for name in broken:
        (inbox / name).rename(inbox / f"{forged}{name}")
    copies = tmp_path / "copies"
    shutil.copytree(inbox, copies)

    state: State[Any] = await process_inbox(str(inbox), batch_size=4, move=True, return_state=True)

    assert await state.aresult() == {"batches": 3, "completed": 3, "busy": 0}
    outcomes = Counter(file.outcome for file in expected.by_file.values())
    words = {"ok": "stored", "partial": "in part", "quarantined": "quarantined"}
    assert state.message == ", ".join(f"{outcomes[name]} {words[name]}" for name in words if outcomes[name])
    warned = await warnings_of(state.state_details.flow_run_id, len(broken))
    named = {message.split("  batch_id=")[0] for message in warned}
    assert named == {f"\u240a\u241b[2J\ufffd{name}" for name in broken}
    assert query(installation, "SELECT count(*) AS n FROM messages") == [{"n": expected.messages}]
    assert query(installation, "SELECT count(*) AS n FROM chats") == [{"n": expected.chats}]
    assert {row["status"] for row in query(installation, "SELECT status FROM batch_files")} >= {"STORED"}
    assert query(installation, "SELECT status, count(*) FROM batch_processing GROUP BY status") == [
        {"status": "COMPLETED", "count": 3}
    ]
    assert query(installation, "SELECT * FROM stage_overlaps") == []

    shutil.copytree(copies, inbox, dirs_exist_ok=True)
    state = await process_inbox(str(inbox), move=True, return_state=True)
    unstored = outcomes["partial"] + outcomes["quarantined"]
    assert await state.aresult() == {"batches": 0, "completed": 0, "busy": 0, "unstored": unstored}
    assert str(state.message).count("(batch_") == unstored
    assert query(installation, "SELECT count(*) AS n FROM receipts WHERE duplicate") == [{"n": 9}]
    assert list(inbox.iterdir()) == []


async def test_another_folder_is_copied_and_an_unpacked_export_even_with_move(
    installation: Settings, tmp_path: Path
) -> None:
    await configure()
    folder = tmp_path / "exports"
    expected = write_samples(folder, files=2, messages=20, seed=9)
    names = {path.name for path in folder.iterdir()}
    assert (await process_inbox(str(folder)))["completed"] == 1
    assert {path.name for path in folder.iterdir()} == names
    (folder / "whole.zip.part").touch()
    with (folder / "open.zip").open("w"):  # no later run looks at this folder
        state: State[Any] = await process_inbox(str(folder), return_state=True)
    assert state.message == "no files to process; 2 received before; not received: open.zip"
    left = query(installation, "SELECT name, is_error, reason FROM left_files ORDER BY name")
    assert [(row["name"], row["is_error"]) for row in left] == [("open.zip", True), ("whole.zip.part", False)]
    assert all("still being written" in row["reason"] for row in left)
    (folder / "open.zip").unlink()
    assert query(installation, "SELECT count(*) AS n FROM messages") == [{"n": expected.messages}]
    assert query(installation, "SELECT count(*) AS n FROM receipts") == [{"n": 2}]
    (folder / "messages.html").write_text("<html>")
    (folder / "css").mkdir()
    await process_inbox(str(folder), move=True)
    assert (folder / "messages.html").exists()


@pytest.mark.usefixtures("copying_stages")
async def test_failed_batches_are_named_and_do_not_stop_others(
    installation: Settings, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    mark.touch()
    await configure(task_retries=0)
    await command("convert", FAIL_WHILE.format(mark=str(mark), name="1.zip"))
    drop(installation, 3)
    copies = shutil.copytree(installation.inbox, tmp_path / "copies")
    with pytest.raises(BatchesFailed, match=r"1 of 3 batches failed: batch_\d+ \(StageFailed: .*not today"):
        await process_inbox(batch_size=1)
    done = query(installation, "SELECT status, error_message FROM batch_processing ORDER BY batch_id")
    assert sorted(row["status"] for row in done) == ["COMPLETED", "COMPLETED", "FAILED"]
    assert [row["error_message"] for row in done if row["status"] == "FAILED"] != [None]

    again = await process_inbox(str(copies))
    assert again == {"batches": 0, "completed": 0, "busy": 0, "unstored": 1}

    mark.unlink()
    (failed,) = query(installation, "SELECT batch_id FROM batch_processing WHERE status = 'FAILED'")
    report = await process_batch(failed["batch_id"])
    assert report["status"] == "COMPLETED"
    runs = query(
        installation,
        "SELECT stage, outcome FROM stage_runs WHERE batch_id = %s ORDER BY stage_run_id",
        failed["batch_id"],
    )
    assert [(row["stage"], row["outcome"]) for row in runs] == [
        ("extract", "COMPLETED"),
        ("convert", "FAILED"),
        ("convert", "COMPLETED"),  # resumed here: extract was completed
        ("store", "COMPLETED"),
    ]


@pytest.mark.usefixtures("copying_stages")
@pytest.mark.parametrize("stop", [TerminationSignal, asyncio.CancelledError])
async def test_a_run_stopped_while_a_task_starts_requeues_its_batch(
    installation: Settings, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    """Prefect's engine replaces either by a ValueError if it is raised while a task run is created."""
    drop(installation, 1)
    make = Task.create_local_run

    async def hit(self: Task[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.name == "convert":
            if stop is TerminationSignal:
                raise TerminationSignal(signal.SIGTERM)
            task = asyncio.current_task()
            assert task
            task.cancel()  # as Ctrl-C does
            await asyncio.sleep(0)
        return await make(self, *args, **kwargs)

    monkeypatch.setattr(Task, "create_local_run", hit)
    ours = signal.signal(signal.SIGTERM, lambda *_: None)  # Prefect sends the signal again at the end
    try:
        with pytest.raises(stop):
            await process_inbox(str(installation.inbox))
    finally:
        signal.signal(signal.SIGTERM, ours)
    assert query(installation, "SELECT status FROM batch_processing") == [{"status": "QUEUED"}]
    monkeypatch.undo()
    assert (await process_inbox(str(installation.inbox)))["completed"] == 1


@pytest.mark.usefixtures("copying_stages")
async def test_a_run_keeps_no_results_of_completed_batches(
    installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise Prefect would keep 10 kB per subflow result until the run ends."""
    remembered: list[int] = []

    async def report(*_: object) -> None:
        context = FlowRunContext.get()
        assert context
        remembered.append(len(context.run_results))

    monkeypatch.setattr("flows.process_inbox.report", report)
    drop(installation, 3)
    assert (await process_inbox(batch_size=1))["completed"] == 3
    assert remembered == [0]


async def warnings_of(flow_run_id: Any, count: int) -> list[str]:
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId, LogFilterLevel

    wanted = LogFilter(
        flow_run_id=LogFilterFlowRunId(any_=[flow_run_id]), level=LogFilterLevel(ge_=logging.WARNING)
    )
    async with asyncio.timeout(30), get_client() as client:
        while len(logs := await client.read_logs(wanted, limit=200)) < count:  # sent in the background
            await asyncio.sleep(0.2)
    return [log.message for log in logs]
