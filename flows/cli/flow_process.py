"""The process in which commands run a flow in the foreground; its log is separate from their progress.

Arguments: the flow as ``module:function``, its parameters as JSON, and the file to write the outcome to.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, cast

import msgspec
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Abort

from flows.batches.stopping import interrupt
from flows.cli.progress import run_id_file


class Outcome(msgspec.Struct):
    """How a flow run ended: its id, and the name (Completed, Failed, …) and message of its final state.

    ``skipped``: batches of a completed run that are held or that another run processes, and files whose
    content an earlier run has not stored in full.
    """

    flow_run_id: str
    state: str
    message: str | None
    skipped: int = 0


def _write_run_id(_: object, flow_run: FlowRun, __: object) -> None:
    run_id_file(Path(sys.argv[3])).write_text(str(flow_run.id))


async def _run(flow: str, parameters: dict[str, object]) -> Outcome:
    task = cast("asyncio.Task[Any]", asyncio.current_task())
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt, task)
    try:
        run = resolve_name(flow).with_options(on_running=[_write_run_id])
        state = await run(**parameters, return_state=True)
    except Abort as deleted:
        return Outcome("", "Deleted", str(deleted))
    counts = await state.aresult() if state.is_completed() else {}
    skipped = counts.get("batches", 0) - counts.get("completed", 0) + counts.get("unstored", 0)
    return Outcome(
        str(state.state_details.flow_run_id), state.name or state.type.value, state.message, skipped
    )


if __name__ == "__main__":
    _outcome = asyncio.run(_run(sys.argv[1], msgspec.json.decode(sys.argv[2])))
    Path(sys.argv[3]).write_bytes(msgspec.json.encode(_outcome))
