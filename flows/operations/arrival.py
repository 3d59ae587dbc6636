"""Arrivals: request an inbox run within seconds of a file's arrival.

A check receives nothing and holds no lock: the requested run checks the inbox again and decides. So checks
may overlap, on one host or on several. If no process checks, the deployment's schedule starts the runs.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, cast
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client

from blocks import PIPELINE, PipelineConfig
from flows.batches.inbox import scan, writers_at
from flows.batches.kept import release_kept
from flows.batches.kept_elsewhere import release_elsewhere
from flows.batches.source_file import Writers, decodable
from flows.domain import LOOKING
from flows.ledger.locks import INTAKE
from flows.ledger.session import Session, connect, fetch
from flows.operations.requests import REQUEST_INTERVAL, create_run, ready_deployment
from flows.operations.schedule import adjust_schedule
from flows.settings import Settings

#: The largest share of the time that is spent on checks: checks of a large folder are further apart.
_SHARE = 0.1
#: Seconds until a run is requested again for an item that the last run left as it was: doubled each time.
_FIRST_PAUSE, _LONGEST_PAUSE = float(REQUEST_INTERVAL), 3600.0
_FORBIDDEN = os.strerror(errno.EACCES)
#: Seconds between two checks of the kept originals: a folder may have a hundred thousand files.
_KEPT_INTERVAL = 30.0
#: Seconds between two adjustments of the schedule.
_ADJUST_INTERVAL = 60.0

_log = logging.getLogger("flows.operations.arrival")


class _Asked(NamedTuple):
    """A run was requested for an item; the next request is due at ``due`` (time.monotonic)."""

    due: float
    pause: float


class Arrivals:
    """The items that wait for a run, in the inbox and in the ledger, and those for which a run was
    requested."""

    def __init__(self, settings: Settings) -> None:
        """Start without any requests."""
        self._settings = settings
        self._asked: dict[str, _Asked] = {}
        self._next_release = self._next_adjustment = 0.0

    async def look(self, client: PrefectClient, ledger: Session) -> UUID | None:
        """Request a run if something new waits; return its id.

        Raises DatabaseUnavailable, OSError, or an httpx error if the Prefect server is unavailable.
        """
        due = self._due(await self._waiting(client, ledger))
        deployment = await ready_deployment(client, ledger) if due else None
        if deployment is None:
            return None
        # A run may have received all items and planned since then: it counts as planned above.
        due &= await self._waiting(client, ledger)
        if not due:
            return None
        run_id = await create_run(client, deployment, "arrival", due)
        self._note_asked(due)
        return run_id

    async def adjust_schedule(self, client: PrefectClient, ledger: Session) -> None:
        """Deactivate the schedule of the inbox deployment, once a minute, because this process checks the
        inbox."""
        if time.monotonic() >= self._next_adjustment:
            await adjust_schedule(client, ledger)
            self._next_adjustment = time.monotonic() + _ADJUST_INTERVAL

    async def _waiting(self, client: PrefectClient, ledger: Session) -> set[str]:
        return {*await self._in_inbox(client, ledger), *await _in_ledger(ledger)}

    def _due(self, wanted: set[str]) -> set[str]:
        """Return the waiting items for which a run is due now; forget the requests for all other items."""
        now = time.monotonic()
        self._asked = {thing: asked for thing, asked in self._asked.items() if thing in wanted}
        return {thing for thing in wanted if thing not in self._asked or self._asked[thing].due <= now}

    def _note_asked(self, due: set[str]) -> None:
        now = time.monotonic()
        for thing in due:
            pause = self._asked[thing].pause if thing in self._asked else _FIRST_PAUSE
            self._asked[thing] = _Asked(now + pause, min(2 * pause, _LONGEST_PAUSE))

    async def _in_inbox(self, client: PrefectClient, ledger: Session) -> Iterable[str]:
        """Return the entries of the inbox that a run would receive, or would report as left for the first
        time."""
        inbox = self._settings.inbox
        if not inbox.is_dir():
            return []
        if time.monotonic() >= self._next_release:
            await asyncio.to_thread(release_kept, inbox)
            await release_elsewhere(ledger)
            self._next_release = time.monotonic() + _KEPT_INTERVAL
        files, left = await asyncio.to_thread(scan, inbox)
        noted = await fetch(ledger, "left_here", folder=decodable(str(inbox)))
        # A file that could not be stored is tried again. One that may not be read is not: it counts as
        # changed once it may be read.
        known = {row["sighting"] for row in noted if not row["is_error"] or _FORBIDDEN in row["reason"]}
        named = {(row["name"], row["reason"]) for row in noted}
        new = {path: seen.sighting for path, seen in files.items() if seen.sighting not in known}
        unnamed = [path for path, reason in left.items() if (decodable(path.name), reason) not in named]
        closed = await self._closed(new, client, ledger) if new else []
        return map(str, [*closed, *unnamed])

    async def _closed(self, files: dict[Path, str], client: PrefectClient, ledger: Session) -> list[Path]:
        """Return those of the files that no process has open for writing, as far as can be known."""
        writers = await asyncio.to_thread(lambda: {path: writers_at(path) for path in files})
        unsure = {path: shown for path, shown in files.items() if writers[path] is Writers.UNKNOWN}
        quiet: set[str] = set()
        if unsure:
            config = cast("PipelineConfig", await PipelineConfig.aload(PIPELINE, client=client))
            rows = await fetch(
                ledger, "watch_files", sightings=list(unsure.values()), quiet_seconds=config.quiet_seconds
            )
            quiet = {row["sighting"] for row in rows if row["is_quiet"]}
        closed = [path for path in files if writers[path] is Writers.NONE]
        return closed + [path for path, shown in unsure.items() if shown in quiet]


async def _in_ledger(ledger: Session) -> list[str]:
    """Return the sources that are in no batch, and the arrivals that dead runs have announced."""
    rows = await fetch(ledger, "unfinished_intake", space=INTAKE)

    def stored() -> list[str]:
        return [row["thing"] for row in rows if row["is_announced"] or Path(row["stored_path"]).is_file()]

    return await asyncio.to_thread(stored)


async def watch(settings: Settings) -> None:
    """Check every ``look_seconds``. Never returns, unless that is 0."""
    arrivals, pause, reported = Arrivals(settings), settings.look_seconds, ""
    while pause:
        try:
            has_inbox = settings.inbox.is_dir()
            async with get_client() as client, await _connect(settings, has_inbox) as ledger:
                while settings.inbox.is_dir() == has_inbox:  # it may be mounted later, or be unmounted
                    began = time.monotonic()
                    await arrivals.look(client, ledger)
                    await arrivals.adjust_schedule(client, ledger)
                    reported = ""
                    await asyncio.sleep(max(pause, (time.monotonic() - began) / _SHARE))
        except Exception as error:  # this must still run when the server is available again
            if repr(error) != reported:
                reported = repr(error)
                _log.warning("The inbox cannot be watched now, trying again every %g s: %r", pause, error)
            await asyncio.sleep(pause)


async def _connect(settings: Settings, has_inbox: bool) -> Session:
    """Return a session of a process that checks the inbox, or only the ledger if there is no inbox."""
    application = LOOKING if has_inbox else "tdp uploads"
    return await connect(settings.database, application, patience=0)
