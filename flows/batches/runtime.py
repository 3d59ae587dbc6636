"""What one run works with: settings, and the blocks as they stand when it starts."""

from __future__ import annotations

import asyncio
import copy
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
from flows.settings import Settings

if TYPE_CHECKING:
    from flows.ledger.connection import Connection

#: All that a stage's process inherits of our environment.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
_current: ContextVar[Runtime] = ContextVar("runtime")
T = TypeVar("T")


class Runtime:
    """Settings and blocks of one run, loaded once and shared by its subflows and tasks."""

    def __init__(
        self,
        settings: Settings,
        config: PipelineConfig,
        commands: dict[str, StageCommand],
        connector: SqlAlchemyConnector,
    ) -> None:
        """``commands`` maps each stage to its StageCommand; one without a command is built in."""
        self.settings = settings
        self.config = config
        self._commands = commands
        self._connector = connector
        #: Whether its stage runs let those of others go first.
        self.yielding = False
        # Pinged before use: connections that a restart of PostgreSQL has cut are opened anew.
        url = connector.get_engine(pool_pre_ping=True).url.set(drivername="postgresql")
        self.database_url = url.render_as_string(hide_password=False)

    def directory(self, batch_id: str, name: str) -> Path:
        """Return the work directory ``name`` of a batch: input, or the output of a stage."""
        return self.settings.work / batch_id / name

    def input_of(self, stage: str, batch_id: str) -> Path:
        """Return the directory a stage reads: the output of the stage before it."""
        before = STAGES[: STAGES.index(stage)]
        return self.directory(batch_id, before[-1] if before else "input")

    def argv(self, stage: str, batch_id: str) -> list[str]:
        """Return the command of ``stage``: the operator's own if there is one, else the built-in."""
        source, output = self.input_of(stage, batch_id), self.directory(batch_id, stage)
        if own := self._commands[stage].argv(input=source, output=output, batch_id=batch_id):
            return own
        options = self.config.extract_options() if stage == "extract" else []
        return [sys.executable, "-I", "-m", f"flows.stages.{stage}", str(source), str(output), *options]

    def environment(self, stage: str) -> dict[str, str]:
        """Return the whole environment of the stage's process."""
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        database = {"TDP_DATABASE_URL": self.database_url} if stage == "store" else {}
        return {**inherited, "PYTHONUTF8": "1", **database, **self._commands[stage].variables()}

    def timeout(self, stage: str) -> float:
        """Return the time-out of the stage's work in seconds."""
        return 60 * (self._commands[stage].timeout_minutes or self.config.timeout_minutes(stage))

    def memory(self, stage: str) -> int | None:
        """Return the most address space in bytes that each process of the stage may have; None: no limit."""
        megabytes = self._commands[stage].memory_mb or self.config.memory_mb
        return megabytes << 20 if megabytes else None

    async def query(self, report: Callable[[Connection], T]) -> T:
        """Return what ``report`` makes of a connection of the SqlAlchemyConnector block, in a thread."""

        def run() -> T:
            pooled = self._connector.get_engine().raw_connection()
            try:
                return report(cast("Connection", pooled.driver_connection))
            finally:
                pooled.close()

        return await asyncio.to_thread(run)


def _end_at_once(_: Console) -> None:
    os._exit(1)


async def current_runtime() -> Runtime:
    """Return the runtime of this run: its parent's, or a new one from the blocks as they are now."""
    if (runtime := _current.get(None)) is None:
        # A worker that is killed leaves its flow runs a broken pipe to log to. Rich would raise SystemExit
        # there, in the midst of anything: the event loop ends around unfinished tasks, and the process may
        # hang with their locks for ever. The kernel opens them all, and the batches are taken over.
        Console.on_broken_pipe = _end_at_once  # type: ignore[method-assign, assignment]
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
    """Hold a runtime for the body, and for its subflows, whose stage runs let those of others go first."""
    runtime = copy.copy(await current_runtime())
    runtime.yielding = True
    token = _current.set(runtime)
    try:
        yield runtime
    finally:
        _current.reset(token)
