"""What a run shows in the Prefect UI: its name, and the output of the operator's program."""

from __future__ import annotations

import asyncio
import re
import sys

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterTaskRunId, TaskRunFilter, TaskRunFilterName

from blocks import PIPELINE, PipelineConfig, StageCommand
from flows.maintain import maintain
from flows.process_inbox import process_inbox
from flows.settings import Settings

PROGRAM = """
import shutil, sys
print("read 100 %", flush=True)
sys.stderr.write("1 message skipped")
shutil.copytree(sys.argv[1], sys.argv[2])
"""


async def test_a_run_is_named_after_its_files_and_its_program_is_heard(installation: Settings) -> None:
    await PipelineConfig(settle_seconds=0).asave(PIPELINE, overwrite=True)
    for stage in ("extract", "convert", "store"):
        command = [sys.executable, "-c", PROGRAM, "{input}", "{output}"]
        await StageCommand(command=command).asave(stage, overwrite=True)
    installation.inbox.mkdir(parents=True)
    for number in range(2):
        (installation.inbox / f"{number}.zip").write_text(f"{installation.home} {number}")

    state = await process_inbox(return_state=True)

    assert state.state_details.flow_run_id
    async with get_client() as client:
        run = await client.read_flow_run(state.state_details.flow_run_id)
        assert re.fullmatch(r"inbox \d{4}-\d\d-\d\d \d\d:\d\d, 2 files", run.name)
        messages: set[str] = set()
        wanted = {"stdout: read 100 %", "stderr: 1 message skipped"}
        for _ in range(100):  # the client sends logs in batches
            found = TaskRunFilter(name=TaskRunFilterName(like_="extract-batch"))
            ids = [task.id for task in await client.read_task_runs(task_run_filter=found)]
            of_tasks = LogFilter(task_run_id=LogFilterTaskRunId(any_=ids))
            messages = {log.message for log in await client.read_logs(of_tasks)} if ids else set()
            if wanted <= messages:
                break
            await asyncio.sleep(0.2)
    assert wanted <= messages


async def test_a_maintenance_run_is_named_after_its_time(installation: Settings) -> None:
    state = await maintain(return_state=True)
    assert state.state_details.flow_run_id
    async with get_client() as client:
        run = await client.read_flow_run(state.state_details.flow_run_id)
    assert re.fullmatch(r"maintenance \d{4}-\d\d-\d\d \d\d:\d\d", run.name)
