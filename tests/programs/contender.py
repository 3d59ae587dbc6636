"""One of several processes that compete for the same exclusive program.

usage: contender.py gated|free STAGE BATCH_ID... -- COMMAND...

Runs COMMAND once per batch, with or without the gate of STAGE; ends with status 1 at the first crash.
Prints "fenced SECONDS PID" on every entry. TDP_DATABASE_URL names the ledger, CONTENDER_TIMEOUT is the
timeout of a gated run in seconds.
"""

import asyncio
import logging
import os
import sys
import time

from flows.errors import StageFailed
from flows.stages.runner.process import run_command


async def main() -> None:
    mode, stage, *rest = sys.argv[1:]
    split = rest.index("--")
    batches, command = rest[:split], rest[split + 1 :]
    if mode == "free":
        for _ in batches:
            await run_command(command, env=dict(os.environ), timeout=60)
        return
    # These bring Prefect, which takes a second.
    from flows.cli.startup import collect_seldom

    collect_seldom()
    from flows.gate.gate import gate
    from flows.gate.process_lanes import lanes
    from flows.ledger.owner import owner
    from flows.settings import Settings

    log, locks = logging.getLogger("contender"), Settings().work_locks
    async with owner(os.environ["TDP_DATABASE_URL"], "contender") as own, lanes(own, locks) as own_lanes:
        for batch_id in batches:
            async with gate(stage, batch_id, lanes=own_lanes, log=log, environment=dict(os.environ)) as held:
                sys.stdout.write(f"fenced {time.time()} {os.getpid()}\n")
                sys.stdout.flush()
                await held.run(command, timeout=float(os.environ.get("CONTENDER_TIMEOUT", "60")))


try:
    asyncio.run(main())
except StageFailed as error:
    sys.exit(str(error))
