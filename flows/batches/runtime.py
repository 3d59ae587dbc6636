"""The runtime of one run: settings, and the Prefect blocks as they are when the run starts."""

from __future__ import annotations

import asyncio
import atexit
import copy
import gc
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from prefect_sqlalchemy import SqlAlchemyConnector
from rich.console import Console

from blocks import DATABASE, PIPELINE, PipelineConfig, StageCommand
from flows.domain import STAGES
from flows.ledger.schema_version import check_schema
from flows.reports.visible import make_logs_visible
from flows.settings import Settings

if TYPE_CHECKING:
    from flows.ledger.connection import Connection

#: The only environment variables that a stage's process inherits from the flow.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
_current: ContextVar[Runtime] = ContextVar("runtime")
T = TypeVar("T")

# Prefect starts a flow run's process, not flows/cli/startup.py; this is the same from here on. To examine
# again and again what is imported by now took 3 ms of the flow's CPU time for each batch.
gc.set_threshold(50_000, 20, 100)
gc.freeze()
atexit.register(gc.freeze)


class Runtime:
    """Settings and blocks of one run, loaded once and shared with its subflows and tasks."""

    def __init__(
        self,
        settings: Settings,
        config: PipelineConfig,
        commands: dict[str, StageCommand],
        connector: SqlAlchemyConnector,
    ) -> None:
        """``commands`` maps each stage to its StageCommand block; one without a command is built in."""
        self.settings = settings
        self.config = config
        self._commands = commands
        self._connector = connector
        #: Whether the stage runs of this run yield to those of other runs.
        self.yielding = False
        # Pre-ping replaces pooled connections that a restart of PostgreSQL has closed.
        url = connector.get_engine(pool_pre_ping=True).url.set(drivername="postgresql")
        self.database_url = url.render_as_string(hide_password=False)

    def directory(self, batch_id: str, name: str) -> Path:
        """Return the directory ``name`` of a batch's work directory: ``input``, or a stage's output."""
        return self.settings.work / batch_id / name

    def input_of(self, stage: str, batch_id: str) -> Path:
        """Return the input directory of a stage: the output of the stage before, or ``input``."""
        before = STAGES[: STAGES.index(stage)]
        return self.directory(batch_id, before[-1] if before else "input")

    def argv(self, stage: str, batch_id: str) -> list[str]:
        """Return the argument list of ``stage``: the operator's program if configured, else the built-in."""
        source, output = self.input_of(stage, batch_id), self.directory(batch_id, stage)
        if own := self._commands[stage].argv(input=source, output=output, batch_id=batch_id):
            return own
        program = [sys.executable, "-I", "-m", f"flows.stages.{stage}", str(source), str(output)]
        return [*program, *self.config.options(stage)]

    def is_built_in(self, stage: str) -> bool:
        """Return whether the built-in program runs as ``stage``, not the operator's own."""
        return not self._commands[stage].command

    def environment(self, stage: str) -> dict[str, str]:
        """Return the complete environment of the stage's process."""
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        database = {"TDP_DATABASE_URL": self.database_url} if stage == "store" else {}
        return {**inherited, "PYTHONUTF8": "1", **database, **self._commands[stage].variables()}

    def timeout(self, stage: str) -> float:
        """Return the timeout of a run of the stage, in seconds."""
        return 60 * (self._commands[stage].timeout_minutes or self.config.timeout_minutes(stage))

    def memory(self, stage: str) -> int | None:
        """Return the address space limit in bytes for each process of the stage; None: no limit."""
        megabytes = self._commands[stage].memory_mb or self.config.memory_mb
        return megabytes << 20 if megabytes else None

    async def query(self, report: Callable[[Connection], T]) -> T:
        """Return ``report(connection)``, called in a thread with a connection of the database block."""

        def run() -> T:
            pooled = self._connector.get_engine().raw_connection()
            try:
                return report(cast("Connection", pooled.driver_connection))
            finally:
                pooled.close()

        return await asyncio.to_thread(run)


def _exit_immediately(_: Console) -> None:
    os._exit(1)


async def current_runtime() -> Runtime:
    """Return the runtime of this run: that of its parent run, or a new one with the current blocks.

    Raises SchemaMismatch if the database's schema is not that of this release.
    """
    if (runtime := _current.get(None)) is None:
        make_logs_visible()
        # When a worker is killed, the log pipe of its flow runs is broken. Rich would raise SystemExit at any
        # point of the code: the event loop would stop with unfinished tasks, and the process could hang with
        # their locks held. An immediate exit releases all locks, and other runs claim the batches.
        Console.on_broken_pipe = _exit_immediately  # type: ignore[method-assign, assignment]
        config, connector, *commands = await asyncio.gather(
            PipelineConfig.aload(PIPELINE),
            SqlAlchemyConnector.aload(DATABASE),
            *(StageCommand.aload(stage) for stage in STAGES),
        )
        runtime = Runtime(Settings(), config, dict(zip(STAGES, commands, strict=True)), connector)
        await runtime.query(check_schema)
        _current.set(runtime)
    return runtime


@asynccontextmanager
async def yielding_runtime() -> AsyncIterator[Runtime]:
    """Provide a runtime to the body and its subflows whose stage runs yield to those of other runs."""
    runtime = copy.copy(await current_runtime())
    runtime.yielding = True
    token = _current.set(runtime)
    try:
        yield runtime
    finally:
        _current.reset(token)
