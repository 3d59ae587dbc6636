"""Receive source files, with the intake lock held: each content once, none lost in a crash (README.md)."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from psycopg.types.json import Jsonb

from flows.batches.inbox import Candidate, Look
from flows.batches.kept import KEPT_NAME, kept_note, put_back
from flows.batches.kept_elsewhere import note_kept
from flows.batches.recognition import HEAD, plainly_other
from flows.batches.source_file import Interrupted, NotARegularFile, SourceFile, Writers, decodable
from flows.batches.source_folder import SourceFolder
from flows.batches.stored_file import is_stored
from flows.batches.workdir import discard_outputs
from flows.domain import Log
from flows.errors import BatchBusy
from flows.ledger.batches import own_batch
from flows.ledger.session import Session, fetch, fetch_one

#: The origin of a file that the bot has received starts so.
TELEGRAM = "telegram:"
#: The reason with which a file is quarantined whose stored file is missing starts so.
GONE = "the stored file is gone from disk"
_NOT_COMPLETE = "not received: it is still being written, or has just changed: when it is complete, run again"

T = TypeVar("T")
Source = SourceFile | SourceFolder


class Arrival(StrEnum):
    """The outcome of receiving one file of an inbox."""

    NEW = "new"
    DUPLICATE = "duplicate"
    AGAIN = "stored again"  # the ledger has the content, but its stored file was missing
    KNOWN = "received before"  # by an earlier run; the file could not be removed, or was not to be
    LEFT = "left"  # with a reason
    LATER = "later"  # it changed or disappeared, or is being written


@dataclass
class Received:
    """The numbers of files by arrival.

    ``left`` has the entries that stay in the folder, with the reasons; ``failed`` those that could not be
    read or stored; ``later`` those that are still being written, or changed meanwhile; ``unstored`` those
    whose content an earlier run has not stored in full, with its batch and the reason.
    """

    counts: Counter[Arrival] = field(default_factory=Counter)
    left: dict[Path, str] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)
    later: list[Path] = field(default_factory=list)
    unstored: dict[Path, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Intake:
    """Receives files into ``sources``; ``move``: they leave their folder.

    ``only_exports``: files that are plainly neither an export nor an archive are left. ``keeps``: an original
    that may still be open for writing stays hidden in the folder for an hour. ``only_once``: no later run
    processes the folder by itself, so a file that is not complete now counts as one that could not be read.
    """

    session: Session
    sources: Path
    log: Log
    move: bool = True
    only_exports: bool = True
    keeps: bool = False
    only_once: bool = False
    #: Where the files come from, if not from the path at which they are: ``telegram:<chat>/<message>``.
    origin: str | None = None
    #: Sources whose stored file was missing and is there again.
    restored: list[int] = field(default_factory=list)
    #: See Received.
    unstored: dict[Path, tuple[str, str]] = field(default_factory=dict)

    async def receive_all(self, folder: Path, look: Look) -> Received:
        """Receive every file that a check of ``folder`` found; report each entry that is left there once."""
        await self.finish_announced()
        if self.only_once and self.move and look.files:
            await note_kept(self.session, folder)
        done = Received(left=dict(look.left), later=list(look.busy), unstored=self.unstored)
        sightings = {candidate.path: candidate.sighting for candidate in look.files}
        for candidate in look.files:
            try:
                arrival, reason = await self.receive(candidate)
            except OSError as error:
                done.failed[candidate.path] = f"not received: {error.strerror or error}"
                continue
            done.counts[arrival] += 1
            if arrival is Arrival.LATER:
                done.later.append(candidate.path)
            if reason:
                done.left[candidate.path] = reason
        if self.only_once:
            done.failed |= dict.fromkeys(done.later, _NOT_COMPLETE)
            done.left |= await asyncio.to_thread(kept_note, folder)
        is_sure = bool(look.files) or folder / KEPT_NAME in done.left
        await self._note_left(folder, done, sightings, "" if is_sure else KEPT_NAME)
        return done

    async def receive(self, candidate: Candidate) -> tuple[Arrival, str | None]:
        """Receive one file; return its outcome, and the reason if it is left in its folder.

        Raises OSError if it cannot be read or stored; then it is in its folder, and not in the ledger.
        """
        try:
            file = await asyncio.to_thread(_open, candidate.path)
        except FileNotFoundError:
            return Arrival.LATER, None
        except NotARegularFile as error:
            return Arrival.LEFT, str(error)
        with file:
            if file.sighting != candidate.sighting or file.writers is Writers.SOME:
                return Arrival.LATER, None
            for row in await fetch(self.session, "received_before", sighting=file.sighting):
                if row["purged_at"] or is_stored(row["stored_path"], row["size_bytes"]):
                    self._note_outcome(file.path, row)
                    return await self._leave(file, Arrival.KNOWN)
            if file.writers is Writers.UNKNOWN and not candidate.is_quiet:
                return Arrival.LATER, None
            return await self._receive(file)

    async def _receive(self, file: Source) -> tuple[Arrival, str | None]:
        try:
            other, sha256 = await self._in_thread(file, lambda: self._examine(file))
        except FileNotFoundError:  # a file of a folder
            return Arrival.LATER, None
        if other:
            return Arrival.LEFT, f"{other}, neither an archive nor an export"
        if not file.is_unchanged():
            return Arrival.LATER, None
        origin = self.origin or decodable(str(file.path))
        for source in await fetch(self.session, "source_of_content", sha256=sha256):
            if source["purged_at"] is None and is_stored(source["stored_path"], source["size_bytes"]):
                if file.path.samefile(source["stored_path"]):
                    return Arrival.LEFT, "a stored file of this installation"
                self._report_duplicate(file.path, source)
                await fetch(
                    self.session,
                    "record_duplicate",
                    source_id=source["source_id"],
                    origin=origin,
                    sighting=file.sighting,
                )
                return await self._leave(file, Arrival.DUPLICATE)
            arrival = Arrival.DUPLICATE if source["purged_at"] else Arrival.AGAIN
            if source["purged_at"]:
                self._note_outcome(file.path, source)
            done = await self._store(file, sha256, origin, arrival)
            if done[0] is Arrival.AGAIN:
                self.restored.append(source["source_id"])
            return done
        return await self._store(file, sha256, origin, Arrival.NEW)

    def _examine(self, file: Source) -> tuple[str | None, str]:
        """Return what the file plainly is, if it is to be left, and otherwise its hash."""
        if self.only_exports and (other := _other(file)):
            return other, ""
        return None, file.sha256()

    async def _store(
        self, file: Source, sha256: str, origin: str, arrival: Arrival
    ) -> tuple[Arrival, str | None]:
        stored = self.sources / sha256[:2] / sha256
        await fetch(
            self.session,
            "announce_arrival",
            sha256=sha256,
            name=decodable(file.name),
            size_bytes=file.size,
            stored_path=str(stored),
            origin=origin,
            sighting=file.sighting,
        )
        try:
            is_done = await self._in_thread(file, lambda: file.store(stored, move=self.move))
        except OSError:
            await fetch(self.session, "withdraw_arrival", sha256=sha256)
            raise
        if not is_done:
            await fetch(self.session, "withdraw_arrival", sha256=sha256)
            return Arrival.LATER, None
        await fetch_one(self.session, "record_arrival", sha256=sha256)
        return await self._leave(file, arrival)

    async def _leave(self, file: Source, arrival: Arrival) -> tuple[Arrival, str | None]:
        """Remove a file that is stored from its folder, if files move."""
        if file.has_moved or not self.move:
            return arrival, None
        try:
            await self._in_thread(file, lambda: file.remove(keeps=self.keeps))
        except OSError as error:
            return arrival, f"received, but it cannot be removed: {error.strerror or error}"
        return arrival, None

    async def finish_announced(self) -> None:
        """Record arrivals whose bytes are stored although their run died; withdraw those that are not."""
        for row in await fetch(self.session, "announced_arrivals"):
            stored = Path(row["stored_path"])
            statement = "withdraw_arrival"
            try:
                with await asyncio.to_thread(SourceFile, stored) as file:
                    if await self._in_thread(file, file.sha256) == row["sha256"]:
                        statement = "record_arrival"
                if statement == "withdraw_arrival" and row["origin"].startswith(TELEGRAM):
                    stored.unlink()  # the bot downloads it again
                elif statement == "withdraw_arrival":
                    # It was opened for writing when it was moved, and the run died before it put it back.
                    back = await asyncio.to_thread(put_back, stored, Path(row["origin"]))
                    self.log.warning("Not received, because it was changed meanwhile; put back: %s", back)
            except FileNotFoundError:
                pass  # its bytes were not stored: the file is in its folder
            except (OSError, NotARegularFile) as error:
                self.log.error("%s cannot be received, the next run tries again: %s", stored, error)
                continue
            await fetch(self.session, statement, sha256=row["sha256"])

    async def _note_left(self, folder: Path, done: Received, seen: dict[Path, str], retained: str) -> None:
        entries = [
            {
                "name": decodable(path.name),
                "sighting": seen.get(path, ""),
                "reason": decodable(reason),
                "is_error": path in done.failed,
            }
            for path, reason in (done.left | done.failed).items()
        ]
        noted = {"folder": decodable(str(folder)), "entries": Jsonb(entries)}
        named = await fetch(self.session, "note_left", **noted, retained=retained)
        for row in named:
            level = logging.ERROR if row["is_error"] else logging.WARNING
            self.log.log(level, "Left in %s: %s: %s", folder, row["name"], row["reason"])
        if before := len(entries) - len(named):
            self.log.info("%d entries of the folder stay there as before: `tdp files --left`", before)

    async def _in_thread(self, file: Source, work: Callable[[], T]) -> T:
        """Return ``work()`` from a thread; if this is cancelled, wait until the thread has stopped."""
        running = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            file.is_cancelled = True
            with suppress(Interrupted, OSError):
                await running
            raise

    def _note_outcome(self, path: Path, source: dict[str, Any]) -> None:
        if source["status"] not in {None, "STORED"}:
            self.unstored[path] = source["batch_id"], source["error"] or "its batch is not completed"

    def _report_duplicate(self, path: Path, source: dict[str, Any]) -> None:
        self._note_outcome(path, source)
        batch = source["batch_id"] or "in no batch yet"
        if source["status"] == "QUARANTINED":
            quarantined = "%s has the content of %s, which was quarantined in %s: %s"
            self.log.warning(quarantined, path.name, source["name"], batch, source["error"])
        else:
            self.log.info("%s is a duplicate: the content of %s (%s)", path.name, source["name"], batch)


async def requeue_restored(intake: Intake, work: Path, database_url: str) -> None:
    """Re-queue the batches with files that were missing on disk and are stored again."""
    source_ids = intake.restored
    for row in await fetch(intake.session, "batches_to_restore", reason=GONE, source_ids=source_ids):
        if not await asyncio.to_thread(_any_exists, row["stored_paths"]):
            continue
        with suppress(BatchBusy):  # the next run looks again
            async with own_batch(row["batch_id"], database_url) as batch:
                await asyncio.to_thread(discard_outputs, work / batch.batch_id, [])
                await batch.reset_files()
                await batch.requeue()
                intake.log.info("Re-queued %s: a source file of it is stored again", batch.batch_id)


def _any_exists(paths: Iterable[str]) -> bool:
    return any(Path(path).is_file() for path in paths)


def _open(path: Path) -> Source:
    return SourceFolder(path) if path.is_dir() and not path.is_symlink() else SourceFile(path)


def _other(file: Source) -> str | None:
    return plainly_other(file.path.name, file.head(HEAD), is_whole=file.size <= HEAD)
