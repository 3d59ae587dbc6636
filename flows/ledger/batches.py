"""One batch in the ledger, owned by one living run at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import UUID

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from flows.errors import BatchBusy, BatchUnknown, DatabaseUnavailable
from flows.ledger.session import Session, fetch, fetch_one, give_back, take
from flows.stages.runner.contract import Result, entry_id, entry_name


class OwnedBatch:
    """A batch whose lock this process holds: nobody else works on it while the session lives."""

    def __init__(self, batch_id: str, database_url: str, session: Session, status: str) -> None:
        """Made by :func:`own_batch` alone."""
        self.batch_id = batch_id
        self.status = status
        self._url = database_url
        self._session = session
        self._for_gates: Session | None = None

    async def ensure_owned(self) -> None:
        """Take the lock again if PostgreSQL went away. Raises BatchBusy if another run has it, or is done."""
        try:
            await fetch(self._session, "alive")
        except DatabaseUnavailable:
            await self.close()
            self._session, self.status = await _own(self.batch_id, self._url)
            if self.status == "COMPLETED":
                raise BatchBusy(f"another run has done {self.batch_id} meanwhile") from None

    @asynccontextmanager
    async def gate_session(self) -> AsyncIterator[Session]:
        """A session for one gate, which the next one gets too if this one ends well."""
        session, self._for_gates = self._for_gates, None
        if session is None or session.closed:
            session = await take(self._url, "tdp gate")
        try:
            yield session
        except BaseException:
            await session.close()
            raise
        self._for_gates = session

    async def _fetch(self, statement: str, **values: object) -> list[DictRow]:
        """Run a statement that may be run twice; where PostgreSQL went away meanwhile, when it is back.

        Raises BatchBusy if another run has the batch then.
        """
        try:
            return await fetch(self._session, statement, batch_id=self.batch_id, **values)
        except DatabaseUnavailable:
            await self.ensure_owned()
            return await fetch(self._session, statement, batch_id=self.batch_id, **values)

    @property
    def socket(self) -> int:
        """Descriptor of the lock's session, for the processes that must keep the batch owned."""
        return self._session.fileno()

    async def sources(self) -> list[tuple[str, Path]]:
        """Return entry name and stored path of every source file of the batch that is still wanted."""
        rows = await self._fetch("batch_sources")
        return [(entry_name(row["source_id"], row["name"]), Path(row["stored_path"])) for row in rows]

    async def record(self, stage: str, result: Result) -> None:
        """Record what a stage made of each source file."""
        files = [
            {
                "source_id": source_id,
                "status": {"partial": "PARTIAL", "quarantined": "QUARANTINED"}.get(outcome.status, "WAITING"),
                "error": outcome.reason and outcome.reason.replace("\0", "\ufffd"),
                "chats": outcome.counts.get("chats"),
                "messages": outcome.counts.get("messages"),
            }
            for outcome in result.files
            # An operator's program may name files its own way.
            if (source_id := entry_id(outcome.name)) is not None
        ]
        await self._fetch("record_files", stage=stage, files=Jsonb(files))

    async def has_completed(self, stage: str) -> bool:
        """Tell whether a run of the stage was seen to its end, as the ledger knows."""
        (row,) = await self._fetch("has_completed", stage=stage)
        return bool(row["completed"])

    async def reset_files(self) -> None:
        """Forget what earlier runs recorded of the files: the first stage begins anew."""
        await self._fetch("reset_files")

    async def complete(self) -> None:
        """Mark the batch COMPLETED and its files stored."""
        await self._fetch("complete_batch")

    async def fail(self, error: str, flow_run_id: UUID | None) -> None:
        """Mark the batch FAILED; a retry resumes it at the first stage that is not done."""
        await self._fetch("fail_batch", error=error, flow_run_id=flow_run_id)

    async def requeue(self) -> None:
        """Mark the batch QUEUED: its run was cancelled and any other may take it.

        Where PostgreSQL is away nobody waits for it: a batch whose run has ended is taken all the same.
        """
        with suppress(DatabaseUnavailable):
            await fetch(self._session, "requeue_batch", batch_id=self.batch_id)

    async def report(self) -> DictRow:
        """Return batch_id, status, file_count, stored, partial, quarantined and messages."""
        (row,) = await self._fetch("batch_report")
        return row

    async def close(self) -> None:
        """Give the batch up."""
        await self._session.close()
        if self._for_gates:
            await self._for_gates.close()
            self._for_gates = None

    async def give_back(self) -> None:
        """Give the batch up, and its sessions back. If this raises, :meth:`close` is still to be called."""
        if self._for_gates:
            for_gates, self._for_gates = self._for_gates, None
            await give_back(for_gates)
        await give_back(self._session)


@asynccontextmanager
async def own_batch(batch_id: str, database_url: str) -> AsyncIterator[OwnedBatch]:
    """Hold the batch for the body. Raises BatchBusy if a living run has it, BatchUnknown if there is none."""
    session, status = await _own(batch_id, database_url)
    batch = OwnedBatch(batch_id, database_url, session, status)
    try:
        yield batch
        await batch.give_back()
    except BaseException:
        await batch.close()
        raise


async def _own(batch_id: str, database_url: str) -> tuple[Session, str]:
    session = await take(database_url, f"tdp {batch_id}")
    try:
        row = await fetch_one(session, "own_batch", batch_id=batch_id)
        if row["status"] is None:
            raise BatchUnknown(f"no batch {batch_id!r} in the ledger; `tdp batches` lists them")
        if not row["owned"]:
            raise BatchBusy(f"another run is working on {batch_id}")
    except BaseException:
        await session.close()
        raise
    return session, row["status"]
