"""Receive uploads: download to the spool, then into the ledger as any other source file.

The order makes a crash at any point harmless. A row SEEN without a file is downloaded; a complete file in the
spool is received; a file that was received has a receipt with the upload's origin, and its row becomes
RECEIVED. The name of a complete file never exists for an incomplete one.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
from contextlib import suppress
from pathlib import Path, PurePosixPath

import msgspec
from psycopg import OperationalError
from telegram.error import TelegramError

from flows.batches.inbox import Candidate
from flows.batches.receiving import TELEGRAM, Arrival, Intake, requeue_restored
from flows.batches.source_file import sighting
from flows.bot import texts
from flows.bot.api import file_path, is_too_big, retry_seconds
from flows.bot.context import Context, signalled
from flows.errors import DatabaseUnavailable
from flows.ledger.intake import planning

#: Downloads at the same time.
_DOWNLOADS = 4
#: Seconds between two checks of the uploads that wait for their next attempt.
_LOOK_EVERY = 1.0
#: Seconds until the next attempt: doubled from the first value up to the second. After the third value in
#: all, and the given number of attempts, the upload is given up.
_FIRST_PAUSE, _LAST_PAUSE, _PATIENCE, _TRIES = 1.0, 600.0, 86_400.0, 20
#: Seconds until disk space is checked again.
_SPACE_PAUSE = 15.0
_CHUNK = 1 << 20


class NoSpace(Exception):
    """There is not enough disk space for a document; the message says how much there is."""


class NotAccepted(Exception):
    """A document will never be received, for the reason in the message."""


class Incomplete(Exception):
    """A download failed, or was cut off; it can be tried again."""


class Upload(msgspec.Struct, frozen=True):
    """A document that is to be received. ``size_bytes`` is None if Telegram did not say."""

    upload_id: int
    chat_id: int
    message_id: int
    file_id: str
    file_name: str
    size_bytes: int | None
    tries: int
    age_sec: float

    @property
    def origin(self) -> str:
        """The origin in the receipt of the file."""
        return f"{TELEGRAM}{self.chat_id}/{self.message_id}"


class Receiver:
    """Receives all uploads that have been seen, several at a time."""

    def __init__(self, context: Context) -> None:
        """Receive the uploads of ``context.bot``."""
        self._context = context
        self._spool = context.settings.spool
        self._intake = asyncio.Lock()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._reserved: dict[int, int] = {}

    async def run(self) -> None:
        """Receive uploads until this is cancelled. Raises DatabaseUnavailable."""
        await self._repair()
        try:
            while True:
                await self._start_next()
                await signalled(self._context.uploaded, _LOOK_EVERY)
                for upload_id, task in list(self._tasks.items()):
                    if task.done():
                        del self._tasks[upload_id]
                        task.result()
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _start_next(self) -> None:
        free = _DOWNLOADS - len(self._tasks)
        if not free:
            return
        for row in await self._context.fetch("next_uploads", busy=list(self._tasks), free=free):
            upload = msgspec.convert(row, Upload)
            task = asyncio.create_task(self._receive(upload))
            task.add_done_callback(lambda _: self._context.uploaded.set())
            self._tasks[upload.upload_id] = task

    async def _repair(self) -> None:
        """Remove the files of ended uploads from the spool."""
        rows = await self._context.fetch("pending_uploads")
        pending = {f"{row['chat_id']}-{row['message_id']}" for row in rows}

        def clean() -> None:
            self._spool.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in self._spool.iterdir():
                if folder.name not in pending:
                    shutil.rmtree(folder, ignore_errors=True)

        await asyncio.to_thread(clean)

    async def _receive(self, upload: Upload) -> None:
        """Receive one upload, or record why it waits or has ended. Raises DatabaseUnavailable."""
        try:
            if not await self._was_received(upload):
                path = await self._spooled(upload)
                await self._take(upload, path)
        except NoSpace as error:
            await self._wait(upload, str(error), _SPACE_PAUSE, "WAITING_SPACE", tries=0)
            return
        except NotAccepted as error:
            await self._end(upload, "REFUSED", str(error))
        except (DatabaseUnavailable, OperationalError):
            raise
        except Exception as error:  # an error of one upload must not stop the others
            if not await self._failed(upload, error):
                return
        finally:
            self._reserved.pop(upload.upload_id, None)
        await asyncio.to_thread(shutil.rmtree, self._folder(upload), ignore_errors=True)

    async def _failed(self, upload: Upload, error: Exception) -> bool:
        """Record a failure; return whether the upload is not tried again."""
        if isinstance(error, TelegramError) and is_too_big(error):
            await self._end(upload, "REFUSED", texts.too_big(self._context.config))
            return True
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            await self._wait(upload, "the disk is full", _SPACE_PAUSE, "WAITING_SPACE", tries=0)
            return False
        if (seconds := retry_seconds(error)) is not None:
            await self._wait(upload, "Telegram asks for a pause", seconds, tries=0)
            return False
        reason = self._context.config.redact(f"{type(error).__name__}: {error}")
        # Its age alone does not decide: it may have waited for disk space, or the bot may not have run.
        if upload.age_sec > _PATIENCE and upload.tries >= _TRIES:
            await self._end(upload, "FAILED", f"it could not be downloaded: {reason}")
            return True
        apart = random.uniform(0.8, 1.2)  # noqa: S311 - so that uploads do not all try at once, not a secret
        pause = min(_FIRST_PAUSE * 2 ** min(upload.tries, _TRIES), _LAST_PAUSE) * apart
        await self._wait(upload, reason, pause)
        return False

    async def _wait(
        self, upload: Upload, reason: str, seconds: float, state: str = "SEEN", *, tries: int = 1
    ) -> None:
        self._context.log.warning("Upload %d: tried again in %.0f s: %s", upload.upload_id, seconds, reason)
        values = {"state": state, "reason": reason, "seconds": seconds, "tries": tries}
        await self._context.fetch("upload_waits", upload_id=upload.upload_id, **values)
        self._context.changed.set()

    async def _end(self, upload: Upload, state: str, reason: str) -> None:
        self._context.log.warning("Upload %d: %s: %s", upload.upload_id, state.lower(), reason)
        await self._context.fetch("upload_ended", upload_id=upload.upload_id, state=state, reason=reason)
        self._context.changed.set()

    def _folder(self, upload: Upload) -> Path:
        return self._spool / f"{upload.chat_id}-{upload.message_id}"

    async def _spooled(self, upload: Upload) -> Path:
        """Return the complete document in the spool, downloaded unless it is there already."""
        path = self._folder(upload) / upload.file_name
        if path.is_file():
            return path
        self._reserve_space(upload)
        where, size = await file_path(self._context.bot, self._context.config, upload.file_id)
        expected = upload.size_bytes if upload.size_bytes is not None else size
        if (expected or 0) > self._context.config.max_bytes:
            raise NotAccepted(texts.too_big(self._context.config))
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = path.with_name(f"{path.name}.part")
        if not self._context.config.local_mode:
            await self._download(where, part)
            await asyncio.to_thread(_complete, part, path, expected)
            return path
        source = self._mapped(where)
        await asyncio.to_thread(_link, source, part)
        await asyncio.to_thread(_complete, part, path, expected)
        with suppress(OSError):  # not permitted: the file keeps its second name, so it is copied later
            source.unlink()
        return path

    def _reserve_space(self, upload: Upload) -> None:
        """Raise NoSpace if the document does not fit beside those that are being downloaded."""
        size, taken = upload.size_bytes or 0, sum(self._reserved.values())
        if shutil.disk_usage(self._spool).free - taken < size + self._context.config.keep_free_bytes:
            raise NoSpace("the server's disk is too full at the moment")
        self._reserved[upload.upload_id] = size

    async def _download(self, url: str, part: Path) -> None:
        headers = {"Accept-Encoding": "identity"}
        async with self._context.http.stream("GET", url, headers=headers) as response:
            if response.status_code != 200:
                raise Incomplete(f"the server answered {response.status_code} to the download")
            with part.open("wb") as file:
                async for chunk in response.aiter_bytes(_CHUNK):
                    await asyncio.to_thread(file.write, chunk)

    def _mapped(self, where: str) -> Path:
        """Return the path here of a path on the Bot API server."""
        path = PurePosixPath(where)
        for theirs, ours in self._context.config.path_map.items():
            if path.is_relative_to(theirs):
                return Path(ours, path.relative_to(theirs))
        return Path(path)

    async def _take(self, upload: Upload, path: Path) -> None:
        """Record the file as a source file. The intake lock is waited for."""
        context = self._context
        async with self._intake, planning(context.intake):
            intake = Intake(
                context.intake,
                context.settings.sources,
                context.log,
                only_exports=context.config.only_exports,
                origin=upload.origin,
            )
            candidate = Candidate(path, sighting(path, path.lstat()), is_quiet=True)
            arrival, reason = await intake.receive(candidate)
            await requeue_restored(intake, context.settings.work, context.settings.database)
        if arrival is Arrival.LEFT:
            raise NotAccepted(reason or "it is not a regular file")
        if arrival is Arrival.LATER or not await self._mark_received(upload):
            raise Incomplete("the file changed in the spool")

    async def _was_received(self, upload: Upload) -> bool:
        """Return whether an interrupted attempt has received the file, possibly without recording it.

        Then its folder in the spool is empty, because the file was moved out of it.
        """
        folder = self._folder(upload)
        if not folder.exists() or any(folder.iterdir()):
            return False
        context = self._context
        async with self._intake, planning(context.intake):
            await Intake(context.intake, context.settings.sources, context.log).finish_announced()
        return await self._mark_received(upload)

    async def _mark_received(self, upload: Upload) -> bool:
        """Record the upload as received if its receipt is in the ledger; return whether it is."""
        values = {"upload_id": upload.upload_id, "origin": upload.origin}
        rows = await self._context.fetch("upload_received", **values)
        if rows:
            number = rows[0]["source_id"]
            self._context.log.info("Upload %d: received as source file %d", upload.upload_id, number)
            self._context.changed.set()
        return bool(rows)


def _link(source: Path, part: Path) -> None:
    """Link or copy a file of a Bot API server on this machine. Raises OSError."""
    part.unlink(missing_ok=True)
    try:
        part.hardlink_to(source)
    except FileNotFoundError:
        raise
    except OSError:  # another file system
        shutil.copyfile(source, part)


def _complete(part: Path, path: Path, expected: int | None) -> None:
    """Give a download its final name once it is whole and on the disk. Raises Incomplete."""
    size = part.stat().st_size
    if expected is not None and size != expected:
        raise Incomplete(f"{size} of {expected} bytes were downloaded")
    _sync(part, os.O_RDONLY)
    part.rename(path)
    _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
