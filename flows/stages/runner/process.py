"""Run one stage's command as a process tree that cannot outlive us, and learn how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from flows.errors import StageCrashed, StageFailed, StageMisconfigured, StageTimedOut
from flows.stages.runner.contract import PERMANENT

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
#: Of each stream only the end is kept: a flood costs no memory. Enough for the result line of 1,000 files.
TAIL_BYTES = 1 << 20
_ERROR_CHARS = 4_000
#: What a program brings upon itself.
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL})
#: Seconds given to what SIGKILL has ended to be gone in fact.
_GRACE = 1.0


@dataclass(frozen=True)
class Finished:
    """A command that ended with status 0: the ends of its two streams, at most ``TAIL_BYTES`` each."""

    stdout: str
    stderr: str


async def run_command(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout: float,
    hold: Sequence[int] = (),
    memory: int | None = None,
) -> Finished:
    """Run ``argv`` under a supervisor made for it: :func:`standby` and :meth:`Supervisor.run` in one."""
    async with standby(env=env, hold=hold) as supervisor:
        return await supervisor.run(argv, timeout=timeout, memory=memory)


@contextlib.asynccontextmanager
async def standby(*, env: Mapping[str, str], hold: Sequence[int] = ()) -> AsyncIterator[Supervisor]:
    """Start a supervisor that waits to be told its command, so that its start costs the lane nothing.

    ``env`` is the whole environment of the work. The descriptors in ``hold`` (a fence's socket) stay open in
    every process of its tree.
    """
    lifeline_read, lifeline = os.pipe()
    status_read, status_write = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: ASYNC220  a vfork of a few ms; asyncio's own would reap behind us
            [sys.executable, "-I", "-S", str(_SUPERVISOR), str(lifeline_read), str(status_write)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env),
            pass_fds=(lifeline_read, status_write, *hold),
            start_new_session=True,
        )
    except BaseException:
        os.close(lifeline)
        os.close(status_read)
        raise
    finally:
        os.close(lifeline_read)
        os.close(status_write)
    supervisor = Supervisor(process, lifeline)
    try:
        await supervisor.listen(os.fdopen(status_read, "rb"))
        yield supervisor
    finally:
        await asyncio.shield(asyncio.ensure_future(supervisor.end()))


class Supervisor:
    """The head of one process tree: our ends of its pipes, and what they told. Made by :func:`standby`."""

    def __init__(self, process: subprocess.Popen[bytes], lifeline: int) -> None:
        """``lifeline`` is the descriptor whose closing ends the tree."""
        self._process = process
        self._lifeline = lifeline
        self._group: int | None = None
        self._code: int | None = None
        self._ended = False
        self._transports: list[asyncio.BaseTransport] = []
        self._tails = (bytearray(), bytearray())
        self._readers: list[asyncio.Task[None]] = []

    async def run(self, argv: Sequence[str], *, timeout: float, memory: int | None = None) -> Finished:
        """Run ``argv`` and wait until the last process of its tree is gone.

        ``timeout`` is in seconds, ``memory`` in bytes of address space per process (None: no limit). On
        time-out, on cancellation and on our own death the whole tree is killed; when this returns or raises,
        no process of it is left.

        Raises StageTimedOut, StageFailed (any non-zero end, with the tail of stderr), of these StageCrashed
        for a fault in the program, or StageMisconfigured (an exit status that no retry can mend).
        """
        arguments = b"\0".join(map(os.fsencode, argv))
        with contextlib.suppress(BrokenPipeError):  # a supervisor killed already: _wait() tells
            os.write(self._lifeline, b"%d %d\n%b" % (len(arguments), memory or 0, arguments))
        try:
            async with asyncio.timeout(timeout):
                code = await self._wait()
            # Whole, unless something of a killed tree still holds them.
            await asyncio.wait(self._readers, timeout=_GRACE)
        except TimeoutError:
            raise StageTimedOut(f"ran longer than {timeout:g} s; its processes were ended") from None
        finally:
            await asyncio.shield(asyncio.ensure_future(self.end()))
        stdout, stderr = (tail.decode(errors="replace") for tail in self._tails)
        if code == 0:
            return Finished(stdout, stderr)
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        reason = stderr.strip()[-_ERROR_CHARS:] or "nothing on stderr"
        kind = StageCrashed if -code in _CRASHES else StageFailed
        raise (StageMisconfigured if code in PERMANENT else kind)(
            f"{Path(argv[0]).name} failed ({how}): {reason}"
        )

    async def listen(self, status: IO[bytes]) -> None:
        """Keep the ends of both streams from now on."""
        self._status = await self._reader(status)
        for stream, tail in zip((self._process.stdout, self._process.stderr), self._tails, strict=True):
            if stream is not None:  # opened as pipes above
                self._readers.append(asyncio.create_task(_keep_tail(await self._reader(stream), tail)))

    async def end(self) -> None:
        """Kill what still runs and wait until it is gone."""
        if self._ended:
            return
        self._ended = True
        os.close(self._lifeline)
        if self._code is None:
            await self._wait()
        self._process.wait()
        for reader in self._readers:
            reader.cancel()
        for transport in self._transports:
            transport.close()
        await asyncio.sleep(0)  # the loop closes the pipes at its next turn

    async def _wait(self) -> int:
        """Return the work's exit status (negative: a signal) once its tree is gone."""
        async for line in self._status:
            word, _, number = line.partition(b" ")
            if word == b"group":
                self._group = int(number)
            else:
                self._code = int(number)
        if self._code is None:  # the supervisor was killed: nobody but us ends its work now
            self._code = -signal.SIGKILL
            await self._end_group()
        return self._code

    async def _reader(self, pipe: IO[bytes]) -> asyncio.StreamReader:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
        self._transports.append(transport)
        return reader

    async def _end_group(self) -> None:
        if self._group is None:
            return
        with contextlib.suppress(ProcessLookupError, TimeoutError):  # a zombie nobody reaps counts as gone
            async with asyncio.timeout(_GRACE):
                while True:
                    os.killpg(self._group, signal.SIGKILL)
                    await asyncio.sleep(0.01)


async def _keep_tail(reader: asyncio.StreamReader, tail: bytearray) -> None:
    while chunk := await reader.read(1 << 16):
        tail += chunk
        del tail[:-TAIL_BYTES]
