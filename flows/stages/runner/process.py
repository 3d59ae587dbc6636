"""Run one stage's command as a process tree that does not outlive the flow, and report how it ended."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from flows.errors import GateLost, StageCrashed, StageFailed, StageMisconfigured, StageTimedOut
from flows.stages.runner import work_lock
from flows.stages.runner.completion import to_the_end
from flows.stages.runner.contract import PERMANENT
from flows.stages.runner.crash_history import CRASHES
from flows.stages.runner.supervisor import CLOCK, WATCHDOG

#: The program at the head of the processes of every stage run; its command line identifies them.
SUPERVISOR = Path(__file__).with_name("supervisor.py")
#: Only the end of each stream is kept, so that much output costs no memory. Enough for the result line of
#: 1,000 files.
TAIL_BYTES = 1 << 20
_ERROR_CHARS = 4_000
#: Seconds: the wait for streams that a killed process may still hold open; between two checks of a tree
#: without a head.
_GRACE, _LOOK_AGAIN = 1.0, 0.05
#: Seconds between two bytes that the supervisor gets while the flow can prove its sessions.
_FEED_EVERY = 1.0


@dataclass(frozen=True)
class Finished:
    """A command that ended with status 0: the ends of its two streams, at most ``TAIL_BYTES`` each."""

    stdout: str
    stderr: str


async def _nothing_to_prove() -> None:
    return


async def run_command(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout: float,
    memory: int | None = None,
    hold: Sequence[int] = (),
) -> Finished:
    """Run ``argv`` apart from any gate: :func:`standby` and :meth:`Supervisor.run` in one."""
    with tempfile.TemporaryDirectory() as folder:
        async with standby(env=env, lock=Path(folder) / "lock") as supervisor:
            return await supervisor.run(argv, timeout=timeout, memory=memory, hold=hold)


@contextlib.asynccontextmanager
async def standby(*, env: Mapping[str, str], lock: Path) -> AsyncIterator[Supervisor]:
    """Start a supervisor that waits for its command, so that the lane does not wait for its start.

    ``env`` is the environment of the work, but for the mark that names ``lock``: the file that stays locked
    until the last process of the tree is gone (:mod:`flows.stages.runner.work_lock`), and that the caller
    removes. Raises OSError if it cannot be made.
    """
    theirs, lifeline = socket.socketpair()
    status_read, status_write = os.pipe()
    locked = -1
    try:
        locked = work_lock.acquire(lock)
        inherited = (theirs.fileno(), status_write, locked)
        process = subprocess.Popen(  # noqa: ASYNC220  a vfork of a few ms; asyncio's own would reap behind us
            [sys.executable, "-I", "-S", str(SUPERVISOR), *map(str, inherited)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**env, **work_lock.environment(lock)},
            pass_fds=inherited,
            start_new_session=True,
        )
        work_lock.name_supervisor(locked, process.pid)
    except BaseException:
        lifeline.close()
        os.close(status_read)
        raise
    finally:
        theirs.close()
        os.close(status_write)
        if locked >= 0:  # from now on only the tree has it: a frozen flow must not hold it
            os.close(locked)
    supervisor = Supervisor(process, lifeline, lock)
    try:
        await to_the_end(supervisor.listen(os.fdopen(status_read, "rb")))
        yield supervisor
    finally:
        await supervisor.end()


class Supervisor:
    """The head of one process tree, as the flow sees it. Made by :func:`standby`."""

    def __init__(self, process: subprocess.Popen[bytes], lifeline: socket.socket, lock: Path) -> None:
        """``lifeline`` is the socket whose closing ends the tree."""
        self._process = process
        self._lifeline = lifeline
        self._lifeline.setblocking(False)
        self._lock = lock
        #: Called with the name of a stream and what was read from it, empty at its end.
        self.on_output: Callable[[str, bytes], None] = lambda *_: None
        self._is_asked = False
        self._code: int | None = None
        self._unfed = False
        self._ended_at: int | None = None
        self._end: asyncio.Task[None] | None = None
        self._transports: list[asyncio.BaseTransport] = []
        self._tails = (bytearray(), bytearray())
        self._readers: list[asyncio.Task[None]] = []

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        memory: int | None = None,
        hold: Sequence[int] = (),
        prove: Callable[[], Awaitable[None]] = _nothing_to_prove,
    ) -> Finished:
        """Run ``argv`` and wait until the last process of its tree is gone.

        ``timeout`` is in seconds, ``memory`` in bytes of address space per process (None: no limit). The
        supervisor, and it alone, keeps the descriptors in ``hold`` open until the tree is gone. ``prove`` is
        awaited every second and raises GateLost when the work must end. When this returns or raises, no
        process of the tree is left, however often the caller was cancelled meanwhile.

        Raises StageTimedOut, GateLost, StageFailed (any non-zero end, with the tail of stderr), of these
        StageCrashed for a fault in the program, or StageMisconfigured (an exit status that is not retried).
        """
        deadline = _now() + int(WATCHDOG * 1e9)
        await prove()
        await self._request(argv, memory or 0, deadline, hold)
        ended = asyncio.ensure_future(self._wait())
        feeding = asyncio.ensure_future(self._feed(prove))
        try:
            async with asyncio.timeout(timeout):
                await asyncio.wait({ended, feeding}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                feeding.result()
        except TimeoutError:
            raise StageTimedOut(f"ran longer than {timeout:g} s; its processes were ended") from None
        finally:
            feeding.cancel()
            await self.end(ended)
            await asyncio.gather(feeding, return_exceptions=True)
        return self._finished(argv)

    def _finished(self, argv: Sequence[str]) -> Finished:
        code = self._code
        if self._unfed:
            raise GateLost("the flow did not run for some seconds, so the stage's processes were ended")
        stdout, stderr = (tail.decode(errors="replace") for tail in self._tails)
        if code == 0:
            return Finished(stdout, stderr)
        how = f"killed by {signal.Signals(-code).name}" if code and code < 0 else f"exit status {code}"
        said = stderr.strip() or stdout.strip()  # many programs print their errors to stdout
        reason = said[-_ERROR_CHARS:] or "it printed nothing"
        kind = StageCrashed if code and -code in CRASHES else StageFailed
        raise (StageMisconfigured if code in PERMANENT else kind)(
            f"{Path(argv[0]).name} failed ({how}): {reason}"
        )

    async def _request(self, argv: Sequence[str], memory: int, deadline: int, hold: Sequence[int]) -> None:
        arguments = b"\0".join(map(os.fsencode, argv))
        data = b"%d %d %d\n%b" % (len(arguments), memory, deadline, arguments)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", hold))] if hold else []
        self._is_asked = True
        with contextlib.suppress(BrokenPipeError):  # the supervisor was already killed: _wait() reports it
            sent = self._lifeline.sendmsg([data], rights)
            await asyncio.get_running_loop().sock_sendall(self._lifeline, data[sent:])

    async def _feed(self, prove: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(_FEED_EVERY)
            await prove()
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                self._lifeline.send(b".")

    @property
    def ended_ago(self) -> float | None:
        """Seconds since the last process of the tree was seen to end; None if that is not known."""
        return None if self._ended_at is None else (_now() - self._ended_at) / 1e9

    async def listen(self, status: IO[bytes]) -> None:
        """Keep the ends of both streams from now on."""
        self._status = await self._reader(status)
        streams = (("stdout", self._process.stdout), ("stderr", self._process.stderr))
        for (name, stream), tail in zip(streams, self._tails, strict=True):
            if stream is not None:  # opened as pipes above
                reading = self._keep_tail(name, await self._reader(stream), tail)
                self._readers.append(asyncio.create_task(reading))

    async def end(self, ended: asyncio.Future[None] | None = None) -> None:
        """Kill what still runs and return when it is gone; every caller waits for the same end."""
        if self._end is None:
            self._end = asyncio.ensure_future(self._end_uncancelled(ended))
        await to_the_end(self._end)

    async def _end_uncancelled(self, ended: asyncio.Future[None] | None) -> None:
        """End the tree; a cancellation starts this again, so it never returns before the tree has ended.

        At a second Ctrl-C, and at SIGTERM in a Prefect run, asyncio.run cancels every task, this one too. A
        third signal would end the interpreter, and libpq with it the session of the fence, beside work that
        cannot die. So from the second one on only SIGKILL ends this process before the tree is gone.
        """
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    return await self._end_tree(ended)
                except asyncio.CancelledError:
                    stack.enter_context(_signals_ignored())

    async def _end_tree(self, ended: asyncio.Future[None] | None) -> None:
        self._lifeline.close()
        if ended is None or ended.cancelled():
            await self._wait()
        elif not ended.done():
            await ended
        self._process.wait()
        if self._code is None:
            if self._is_asked and not self._unfed:  # it was killed itself: the flow has to end its work
                await self._end_headless()
            self._code = -signal.SIGKILL
        if self._readers:  # whole, unless a process of a killed tree still holds them
            await asyncio.wait(self._readers, timeout=_GRACE)
        for reader in self._readers:
            reader.cancel()
        for transport in self._transports:
            transport.close()
        await asyncio.sleep(0)  # the loop closes the pipes at its next turn

    async def _wait(self) -> None:
        """Read what the supervisor reports until it has ended: the group, and the exit status of the work."""
        async for line in self._status:
            word, *numbers = line.split()
            if word == b"unfed":
                self._unfed = True
            elif word == b"exit":
                self._code, self._ended_at = map(int, numbers)

    async def _reader(self, pipe: IO[bytes]) -> asyncio.StreamReader:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
        self._transports.append(transport)
        return reader

    async def _keep_tail(self, name: str, reader: asyncio.StreamReader, tail: bytearray) -> None:
        while chunk := await reader.read(1 << 16):
            tail += chunk
            del tail[:-TAIL_BYTES]
            self.on_output(name, chunk)
        self.on_output(name, b"")

    async def _end_headless(self) -> None:
        """End a tree whose supervisor was killed, and return when the last of its processes is gone."""
        with contextlib.suppress(FileNotFoundError):  # a successor has found it free and removed it
            while not await asyncio.to_thread(work_lock.is_free, self._lock):
                await asyncio.to_thread(work_lock.end_survivors, self._lock)
                self._ended_at = _now()
                await asyncio.sleep(_LOOK_AGAIN)


@contextlib.contextmanager
def _signals_ignored() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM in the body, if this is the main thread: other threads do not receive
    them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _now() -> int:
    return time.clock_gettime_ns(CLOCK)
