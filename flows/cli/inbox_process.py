"""The process in which commands run a flow in the foreground; its log is separate from their progress.

Arguments: the flow as ``module:function``, its parameters as JSON, and the file to write the outcome to.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from pkgutil import resolve_name

import msgspec


class Outcome(msgspec.Struct):
    """How a flow run ended: its id, and the name (Completed, Failed, …) and message of its final state."""

    flow_run_id: str
    state: str
    message: str | None


async def _run(flow: str, parameters: dict[str, object]) -> Outcome:
    state = await resolve_name(flow)(**parameters, return_state=True)
    return Outcome(str(state.state_details.flow_run_id), state.name or state.type.value, state.message)


if __name__ == "__main__":
    _outcome = asyncio.run(_run(sys.argv[1], msgspec.json.decode(sys.argv[2])))
    Path(sys.argv[3]).write_bytes(msgspec.json.encode(_outcome))
