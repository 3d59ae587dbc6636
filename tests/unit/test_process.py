"""A stage's process tree: how it ends, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.errors import StageFailed, StageMisconfigured, StageTimedOut
from flows.stages.process import _SUPERVISOR, TAIL_BYTES, run_command

ENV = {"PATH": os.environ["PATH"]}


def python(code: str, *args: str) -> list[str]:
    return [sys.executable, "-c", code, *args]


async def test_returns_the_streams_of_a_command_that_worked() -> None:
    done = await run_command(python("import sys; print('out'); sys.stderr.write('err')"), env=ENV, timeout=30)
    assert (done.stdout, done.stderr) == ("out\n", "err")


async def test_environment_is_the_one_given_and_nothing_else() -> None:
    done = await run_command(
        python("import os; print(sorted(os.environ))"), env={"A_B": "1", "LC_CTYPE": "C.UTF-8"}, timeout=30
    )
    assert done.stdout == "['A_B', 'LC_CTYPE']\n"


async def test_a_program_ends_in_silence_when_nobody_reads_it() -> None:
    done = await run_command(["sh", "-c", "yes | head -n 1"], env=ENV, timeout=30)
    assert (done.stdout, done.stderr) == ("y\n", "")


async def test_arguments_come_as_they_were_given() -> None:
    given = ["", "two words", "a\nline", "\n", "naïve", "x" * 100_000, ""]
    done = await run_command(python("import sys; print(sys.argv[1:])", *given), env=ENV, timeout=30)
    assert done.stdout == f"{given}\n"


async def test_failure_keeps_the_tail_of_stderr() -> None:
    with pytest.raises(StageFailed, match=r"exit status 1\): no such luck"):
        await run_command(python('import sys; sys.exit("no such luck")'), env=ENV, timeout=30)


async def test_a_signal_is_named() -> None:
    with pytest.raises(StageFailed, match="killed by SIGKILL"):
        await run_command(python("import os; os.kill(os.getpid(), 9)"), env=ENV, timeout=30)


@pytest.mark.parametrize(
    "argv", [["/no/such/program"], *(python(f"raise SystemExit({n})") for n in (65, 78))]
)
async def test_what_no_retry_can_mend_is_not_retryable(argv: list[str]) -> None:
    with pytest.raises(StageMisconfigured):
        await run_command(argv, env=ENV, timeout=30)


async def test_floods_cost_no_memory() -> None:
    code = "import sys\nfor s in (sys.stdout, sys.stderr):\n for _ in range(64): s.write('x' * 1_000_000)"
    done = await run_command(python(code), env=ENV, timeout=60)
    assert len(done.stdout) == len(done.stderr) == TAIL_BYTES


async def test_memory_limit_ends_a_greedy_stage() -> None:
    with pytest.raises(StageFailed, match="MemoryError"):
        await run_command(python("x = bytearray(1 << 30)"), env=ENV, timeout=30, memory=512 << 20)


#: Ignores SIGTERM and has two children: one in its group, one that left for a session of its own.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
nap = [sys.executable, "-c", "import time; time.sleep(600)"]
pids = [os.getpid(), subprocess.Popen(nap).pid, subprocess.Popen(nap, start_new_session=True).pid]
path = sys.argv[1]
open(path + ".new", "w").write(" ".join(map(str, pids)))
os.rename(path + ".new", path)
if len(sys.argv) == 2:
    time.sleep(600)
"""


async def pids_in(path: Path) -> list[int]:
    while not path.exists():
        await asyncio.sleep(0.01)
    return [int(pid) for pid in path.read_text().split()]


def gone(pids: list[int]) -> bool:
    return not any(is_alive(pid) for pid in pids)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_timeout_ends_the_whole_tree(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    with pytest.raises(StageTimedOut, match="longer than 2 s"):
        await run_command(python(STUBBORN, str(path)), env=ENV, timeout=2)
    assert gone(await pids_in(path))


async def test_cancellation_ends_the_whole_tree(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    running = asyncio.create_task(run_command(python(STUBBORN, str(path)), env=ENV, timeout=60))
    pids = await pids_in(path)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert gone(pids)


async def test_children_that_outlive_the_work_are_ended(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    await run_command(python(STUBBORN, str(path), "leave"), env=ENV, timeout=30)
    assert gone(await pids_in(path))


async def test_a_killed_supervisor_takes_the_work_with_it(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    running = asyncio.create_task(run_command(python(STUBBORN, str(path)), env=ENV, timeout=60))
    work, child, escaped = await pids_in(path)
    supervisor = psutil.Process(work).parent()
    assert supervisor is not None
    assert supervisor.parent() == psutil.Process()
    supervisor.kill()
    with pytest.raises(StageFailed, match="SIGKILL"):
        await running
    assert gone([work, child])
    os.kill(escaped, signal.SIGKILL)  # it left for a session of its own, and nobody is left to know it


#: A flow in miniature: runs STUBBORN until it is killed.
FLOW = """
import asyncio, os, sys
from flows.stages.process import run_command
asyncio.run(run_command(sys.argv[1:], env=dict(os.environ), timeout=600))
"""


async def test_the_tree_dies_with_the_flow(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    flow = subprocess.Popen(python(FLOW, *python(STUBBORN, str(path))))  # noqa: ASYNC220  the test's own child
    pids = await pids_in(path)
    killed = time.monotonic()
    flow.send_signal(signal.SIGKILL)
    flow.wait()
    while not gone(pids):
        assert time.monotonic() - killed < 30
        await asyncio.sleep(0.005)


def test_the_tree_dies_with_a_flow_that_is_gone_before_the_work_has_begun() -> None:
    """The supervisor has its command, and finds nobody to tell that it runs."""
    lifeline_read, lifeline = os.pipe()
    status_read, status = os.pipe()
    held_read, held = os.pipe()
    argv = [sys.executable, "-I", "-S", str(_SUPERVISOR), str(lifeline_read), str(status)]
    with subprocess.Popen(argv, pass_fds=(lifeline_read, status, held), stderr=subprocess.PIPE) as supervisor:
        for fd in (lifeline_read, status, held, status_read):
            os.close(fd)
        os.write(lifeline, b'{"argv": ["sleep", "600"], "memory": null}\n')
        os.close(lifeline)
        assert select.select([held_read], [], [], 10)[0], "the work outlived its flow"
        assert os.read(held_read, 1) == b""
        assert supervisor.communicate(timeout=10)[1] == b""
    os.close(held_read)


async def test_held_descriptors_stay_open_in_the_work() -> None:
    read, write = os.pipe()
    try:
        code = f"import os; os.write({write}, b'held')"
        await run_command(python(code), env=ENV, timeout=30, hold=[write])
        assert os.read(read, 10) == b"held"
    finally:
        os.close(read)
        os.close(write)
