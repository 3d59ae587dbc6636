"""A stage's process tree: how it ends, and that no process of it remains."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from flows.errors import GateLost, StageFailed, StageMisconfigured, StageTimedOut
from flows.stages.runner.process import SUPERVISOR, TAIL_BYTES, run_command
from flows.stages.runner.supervisor import CLOCK

ENV = {"PATH": os.environ["PATH"]}


def python(code: str, *args: str) -> list[str]:
    return [sys.executable, "-c", code, *args]


async def test_returns_the_streams_of_a_successful_command() -> None:
    done = await run_command(python("import sys; print('out'); sys.stderr.write('err')"), env=ENV, timeout=30)
    assert (done.stdout, done.stderr) == ("out\n", "err")


async def test_only_the_given_environment_is_passed() -> None:
    done = await run_command(
        python("import os; print(sorted(os.environ))"), env={"A_B": "1", "LC_CTYPE": "C.UTF-8"}, timeout=30
    )
    assert done.stdout == "['A_B', 'LC_CTYPE', 'TDP_WORK_LOCK']\n"


async def test_a_program_ends_silently_when_its_reader_has_ended() -> None:
    done = await run_command(["sh", "-c", "yes | head -n 1"], env=ENV, timeout=30)
    assert (done.stdout, done.stderr) == ("y\n", "")


async def test_arguments_are_passed_unchanged() -> None:
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
async def test_permanent_failures_are_not_retryable(argv: list[str]) -> None:
    with pytest.raises(StageMisconfigured):
        await run_command(argv, env=ENV, timeout=30)


async def test_only_the_tail_of_long_streams_is_kept() -> None:
    code = "import sys\nfor s in (sys.stdout, sys.stderr):\n for _ in range(64): s.write('x' * 1_000_000)"
    done = await run_command(python(code), env=ENV, timeout=60)
    assert len(done.stdout) == len(done.stderr) == TAIL_BYTES


async def test_memory_limit_ends_a_greedy_stage() -> None:
    with pytest.raises(StageFailed, match="MemoryError"):
        await run_command(python("x = bytearray(1 << 30)"), env=ENV, timeout=30, memory=512 << 20)


#: Ignores SIGTERM and has two children: one in its process group, one in its own session.
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


async def test_the_work_ends_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    running = asyncio.create_task(run_command(python(STUBBORN, str(path)), env=ENV, timeout=60))
    work, child, escaped = await pids_in(path)
    supervisor = psutil.Process(work).parent()
    assert supervisor is not None
    assert supervisor.parent() == psutil.Process()
    supervisor.kill()
    with pytest.raises(StageFailed, match="SIGKILL"):
        await running
    assert gone([work, child, escaped])


#: A minimal flow: runs STUBBORN until it is killed.
FLOW = """
import asyncio, os, sys
from flows.stages.runner.process import run_command
asyncio.run(run_command(sys.argv[1:], env=dict(os.environ), timeout=600))
"""


async def test_the_tree_dies_with_the_flow(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    flow = subprocess.Popen(python(FLOW, *python(STUBBORN, str(path))))  # noqa: ASYNC220  a child of the test
    pids = await pids_in(path)
    killed = time.monotonic()
    flow.send_signal(signal.SIGKILL)
    flow.wait()
    while not gone(pids):
        assert time.monotonic() - killed < 30
        await asyncio.sleep(0.005)


def test_the_tree_dies_with_a_flow_that_dies_before_the_work_has_begun() -> None:
    """The supervisor has its command, and no process is left to which it could report that it runs."""
    theirs, lifeline = socket.socketpair()
    status_read, status = os.pipe()
    held_read, held = os.pipe()  # inherited by the whole tree, as the lock is
    inherited = (theirs.fileno(), status, held)
    argv = [sys.executable, "-I", "-S", str(SUPERVISOR), *map(str, inherited)]
    with subprocess.Popen(argv, pass_fds=inherited, stderr=subprocess.PIPE) as supervisor:
        theirs.close()
        for fd in (status, held, status_read):
            os.close(fd)
        lifeline.send(b"9 0 %d\nsleep\x00600" % (time.clock_gettime_ns(CLOCK) + 5_000_000_000))
        lifeline.close()
        assert select.select([held_read], [], [], 10)[0], "the work outlived its flow"
        while os.read(held_read, 100):
            pass  # the group, which it wrote into its lock
        assert supervisor.communicate(timeout=10)[1] == b""
    os.close(held_read)


async def test_held_descriptors_stay_open_while_the_tree_lives_and_the_work_has_none_of_them() -> None:
    read, write = os.pipe()
    code = "import os; print(sorted(os.listdir('/proc/self/fd'))); open(0).read()"
    running = asyncio.create_task(run_command(python(code), env=ENV, timeout=30, hold=[write]))
    await asyncio.sleep(0)
    os.set_blocking(read, False)
    done = await running
    os.close(write)
    # 0 to 2, the lock, and the folder that is being listed.
    assert len(done.stdout.split()) == 5, done.stdout
    assert os.read(read, 10) == b""
    os.close(read)


async def test_work_that_is_not_fed_in_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.stages.runner.process._FEED_EVERY", 60.0)
    with pytest.raises(GateLost, match="did not run"):
        await run_command(["sleep", "600"], env=ENV, timeout=60)


async def test_a_command_that_reaches_the_supervisor_too_late_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.stages.runner.process.WATCHDOG", -1.0)
    with pytest.raises(GateLost):
        await run_command(["touch", str(tmp_path / "begun")], env=ENV, timeout=60)
    assert not (tmp_path / "begun").exists()


async def test_a_timeout_and_cancellations_wait_for_one_end_of_the_tree() -> None:
    """The supervisor is stopped, so the tree cannot end: as with work that hangs in the kernel."""
    running = asyncio.create_task(run_command(["sleep", "600"], env=ENV, timeout=1))
    supervisor = await supervisor_of(psutil.Process())
    while not supervisor.children():
        await asyncio.sleep(0.01)
    supervisor.suspend()
    for _ in range(3):
        done, _ = await asyncio.wait([running], timeout=0.7)
        assert not done, "it ended beside its work"
        running.cancel()
    supervisor.resume()
    with pytest.raises((asyncio.CancelledError, StageTimedOut)):
        await running
    assert not supervisor.is_running()


async def test_the_end_of_the_tree_outlasts_the_cancellation_of_every_task() -> None:
    """As at a second Ctrl-C: asyncio.run cancels every task, also a shielded one."""
    running = asyncio.create_task(run_command(["sleep", "600"], env=ENV, timeout=600))
    supervisor = await supervisor_of(psutil.Process())
    while not supervisor.children():
        await asyncio.sleep(0.01)
    supervisor.suspend()
    for _ in range(3):
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        done, _ = await asyncio.wait([running], timeout=0.7)
        assert not done, "it ended beside its work"
    signal.raise_signal(signal.SIGINT)  # a third one would end the interpreter
    supervisor.resume()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not supervisor.is_running()
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


async def supervisor_of(flow: psutil.Process) -> psutil.Process:
    while True:
        for child in flow.children():  # the process may have others
            with suppress(psutil.NoSuchProcess):
                if str(SUPERVISOR) in child.cmdline():
                    return child
        await asyncio.sleep(0.01)


#: Runs what its arguments say, and says how that ended.
RUN = """
import asyncio, os, sys, time
from flows.stages.runner.process import run_command
began = time.monotonic()
done = asyncio.run(run_command(sys.argv[1:], env={"PATH": os.environ["PATH"]}, timeout=60))
print("ended", time.monotonic() - began > 2, done.stdout.strip())
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv")
def test_processes_of_another_user_are_waited_for() -> None:
    """As after sudo: the flow may not signal what the program has left behind."""
    without_kill = ["setpriv", "--bounding-set", "-kill"]
    leaves_a_child = (
        "setpriv --reuid 65534 --clear-groups setsid sleep 3 &"
        " until [ $(stat -c %u /proc/$!) = 65534 ]; do :; done; echo done"
    )
    flow = [*without_kill, *python(RUN, "sh", "-c", leaves_a_child)]
    done = subprocess.run(flow, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("ended True done\n", 0), done.stderr
