"""One of several processes that compete for the same exclusive program.

usage: contender.py gated|free STAGE BATCH_ID... -- COMMAND...

Runs COMMAND once per batch, with or without the gate of STAGE; ends with status 1 at the first crash.
Prints "fenced SECONDS PID" on every entry. TDP_DATABASE_URL names the ledger.
"""

import asyncio
import logging
import os
import sys
import time

from flows.errors import StageFailed
from flows.gate.gate import gate
from flows.stages.runner.process import run_command


async def main() -> None:
    mode, stage, *rest = sys.argv[1:]
    split = rest.index("--")
    batches, command = rest[:split], rest[split + 1 :]
    for batch_id in batches:
        if mode == "free":
            await run_command(command, env=dict(os.environ), timeout=60)
            continue
        async with gate(
            stage, batch_id, database_url=os.environ["TDP_DATABASE_URL"], log=logging.getLogger("contender")
        ) as held:
            sys.stdout.write(f"fenced {time.time()} {os.getpid()}\n")
            sys.stdout.flush()
            await run_command(command, env=dict(os.environ), timeout=60, hold=[held.socket])


try:
    asyncio.run(main())
except StageFailed as error:
    sys.exit(str(error))
