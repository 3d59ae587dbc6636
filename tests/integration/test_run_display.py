"""What a run shows in the Prefect UI: its name, and the output of the operator's program."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Any

import pytest
from block_documents import write_pipeline, write_stage
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterTaskRunId, TaskRunFilter, TaskRunFilterName
from prefect.exceptions import ParameterTypeError

from flows.backfill import backfill
from flows.maintain import maintain
from flows.process_inbox import process_inbox
from flows.settings import Settings

PROGRAM = """
import shutil, sys
print("read 100 %", flush=True)
sys.stderr.write("1 message skipped")
shutil.copytree(sys.argv[1], sys.argv[2])
"""


async def test_a_run_is_named_after_its_files_and_logs_its_programs_output(installation: Settings) -> None:
    write_pipeline()
    for stage in ("extract", "convert", "store"):
        write_stage(stage, sys.executable, "-c", PROGRAM, "{input}", "{output}")
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


async def test_a_run_that_fails_before_it_knows_its_files_is_named(installation: Settings) -> None:
    names = []
    for flow, parameters in ((process_inbox, {"inbox": "/nonexistent/exports"}), (backfill, {})):
        state = await flow(**parameters, return_state=True)
        assert state.is_failed() and state.state_details.flow_run_id
        async with get_client() as client:
            names.append((await client.read_flow_run(state.state_details.flow_run_id)).name)
    assert [name.split(" 20")[0] for name in names] == ["exports", "backfill"]


@pytest.mark.parametrize("flow", [process_inbox, backfill])
def test_impossible_numbers_are_refused(flow: Flow[..., Any]) -> None:
    with pytest.raises(ParameterTypeError, match="greater than 0"):
        flow.validate_parameters({"window": 0})
