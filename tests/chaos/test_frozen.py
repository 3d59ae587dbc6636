"""Faults that a flow cannot detect: the flow, its host or its supervisor is frozen or has died while sessions
are lost.

Two processes compete for the gate of extract. The work of each records when it runs; the work of the first
must have ended before the second begins.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from contest import PROGRAMS, Contest
from freezer import CGROUPS, frozen

from flows.settings import Settings

matrix = pytest.mark.matrix
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces and cgroups")


@pytest.fixture
def contest(installation: Settings, tmp_path: Path) -> Iterator[Contest]:
    made = Contest(installation, tmp_path)
    yield made
    for process in made.processes:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
    for mark in tmp_path.glob("beats.*"):
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(mark.suffix[1:]))
            if str(PROGRAMS / "heart.py") in process.cmdline():
                process.kill()


def test_a_frozen_flow_that_lost_its_sessions(contest: Contest) -> None:
    contest.start()
    contest.processes[0].send_signal(signal.SIGSTOP)
    contest.start(seconds=1)
    contest.lose_sessions()
    contest.assert_no_overlap()
    contest.processes[0].send_signal(signal.SIGCONT)
    contest.until(lambda: contest.processes[0].poll() is not None)
    assert contest.query("SELECT * FROM stage_overlaps") == []


@matrix  # the suite freezes a flow
@root_only
@pytest.mark.skipif(not (CGROUPS / "cgroup.procs").exists(), reason="needs cgroups of version 2")
def test_a_frozen_host_that_lost_its_sessions(contest: Contest) -> None:
    """It goes on while the second is at work, which knows only that the first was on another host."""
    contest.start()
    contest.query("UPDATE stage_runs SET place = 'elsewhere'")
    with frozen(contest.tree()):
        contest.start(seconds=3)
        contest.lose_sessions()
        contest.until(contest.second_began)
    contest.assert_no_overlap()


@root_only
def test_the_same_host_name_in_another_pid_name_space(contest: Contest) -> None:
    contest.start(prefix=("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"))
    contest.start(seconds=1)
    contest.lose_sessions()
    contest.assert_no_overlap()


@pytest.mark.parametrize(
    "options",
    [pytest.param([each], marks=matrix) for each in ("--child", "--hide")] + [["--hide", "--child"]],
)
def test_a_killed_supervisor_with_work_that_has_left_its_group_or_closed_everything(
    contest: Contest, options: list[str]
) -> None:
    contest.start(*options)
    supervisor = contest.supervisor()
    contest.processes[0].kill()
    supervisor.kill()
    contest.start(seconds=1)
    contest.assert_no_overlap()


@root_only
def test_work_that_cannot_die_after_a_timeout_and_ctrl_c(
    contest: Contest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes to a file system that is frozen: no signal ends that, not even SIGKILL."""
    with mounted(tmp_path) as disk:
        monkeypatch.setenv("CONTENDER_TIMEOUT", "2")
        contest.start("--also", f"{disk}/file")
        (work,) = contest.supervisor().children()
        assert run("fsfreeze", "--freeze", disk)
        try:
            contest.until(lambda: has_been_killed(work))
            assert work.status() == psutil.STATUS_DISK_SLEEP
            contest.start(seconds=1)
            for number in (signal.SIGINT, signal.SIGINT, signal.SIGINT, signal.SIGTERM):
                contest.processes[0].send_signal(number)
                time.sleep(1)  # each must reach what the one before has begun
            with pytest.raises(AssertionError, match="did not happen"):
                contest.until(contest.second_began, 3)
            assert work.is_running()
        finally:
            assert run("fsfreeze", "--unfreeze", disk)
        contest.until(contest.second_began)
        assert not work.is_running()
        contest.assert_no_overlap()
        work.wait(10)


def has_been_killed(process: psutil.Process) -> bool:
    """Return whether SIGKILL is pending: it was sent, and the kernel cannot deliver it."""
    pending = re.findall(r"(?:SigPnd|ShdPnd):\t(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return any(int(signals, 16) >> signal.SIGKILL - 1 & 1 for signals in pending)


def run(*command: str | Path) -> bool:
    """Run a command of the system; return whether it succeeded."""
    try:
        return subprocess.run(command, check=False).returncode == 0
    except FileNotFoundError:
        return False


@contextmanager
def mounted(folder: Path) -> Iterator[Path]:
    """Yield the root of a file system of its own; the test is skipped where none can be mounted."""
    image, root = folder / "image", folder / "mounted"
    root.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    if not (run("mkfs.ext4", "-q", image) and run("mount", "-o", "loop", image, root)):
        pytest.skip("no file system can be mounted here")
    try:
        yield root
    finally:
        assert run("umount", root)


def test_a_supervisor_killed_alone(contest: Contest) -> None:
    contest.start("--child")
    contest.supervisor().kill()
    contest.start(seconds=1)
    contest.assert_no_overlap()


def test_a_timeout_of_the_database_ends_no_wait(contest: Contest) -> None:
    (row,) = contest.query("SELECT current_database() AS name")
    for timeout in ("statement_timeout", "lock_timeout", "idle_session_timeout", "transaction_timeout"):
        contest.query(f"ALTER DATABASE {row['name']} SET {timeout} = 500")
    contest.start(seconds=3)
    contest.start(seconds=1)
    contest.until(lambda: contest.processes[0].poll() is not None)
    assert contest.processes[0].returncode == 0
    contest.assert_no_overlap()


def test_a_clock_that_was_set_back(contest: Contest) -> None:
    contest.start(seconds=1)
    contest.until(lambda: contest.processes[0].poll() is not None)
    contest.query(
        "UPDATE stage_runs SET fenced_at = fenced_at + interval '1 hour',"
        " started_at = started_at + interval '1 hour', finished_at = finished_at + interval '1 hour'"
    )
    contest.start(seconds=1)
    contest.assert_no_overlap()
    disorder = "SELECT 1 FROM stage_runs WHERE NOT (fenced_at <= started_at AND started_at <= finished_at)"
    assert contest.query(disorder) == []


def test_a_gate_that_waits_for_nothing_shows_in_the_ledger(contest: Contest) -> None:
    """Proves the check itself: if a successor did not wait for the work, the ledger would show it."""
    contest.start()
    broken = (
        "import runpy, sys; from flows.gate import predecessor\n"
        "async def at_once(*_): pass\n"
        "predecessor.until_gone = at_once; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    heart = [sys.executable, str(PROGRAMS / "heart.py"), str(contest.beats), "8"]
    argv = [sys.executable, "-c", broken, str(PROGRAMS / "contender.py"), "gated", "extract"]
    second = subprocess.Popen([*argv, contest.batches[1], "--", *heart])
    contest.processes.append(second)
    contest.until(lambda: contest.query("SELECT 1 FROM advisory_locks WHERE NOT granted"))
    contest.processes[0].send_signal(signal.SIGSTOP)  # only now: it is ended 5 s later
    contest.lose_sessions()
    contest.until(contest.second_began)
    contest.processes[0].send_signal(signal.SIGCONT)
    contest.until(lambda: contest.query("SELECT * FROM stage_overlaps"))


def test_the_event_loop_of_a_flow_is_blocked(contest: Contest) -> None:
    """As when its worker is frozen and the pipe to it is full; here a sleep blocks the loop."""
    blocked = (
        "import asyncio, runpy, sys, time; from flows.stages.runner import process\n"
        "wait = process.Supervisor._wait\n"
        "async def blocking(self):\n"
        "    asyncio.get_running_loop().call_later(1, time.sleep, 60); await wait(self)\n"
        "process.Supervisor._wait = blocking; del sys.argv[0]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    heart = [sys.executable, str(PROGRAMS / "heart.py"), str(contest.beats), "600"]
    argv = [sys.executable, "-c", blocked, str(PROGRAMS / "contender.py"), "gated", "extract"]
    contest.processes.append(subprocess.Popen([*argv, contest.batches[0], "--", *heart]))
    contest.until(contest.beats.exists)
    asyncio.run(asyncio.sleep(1.5))
    contest.start(seconds=1)
    contest.lose_sessions()
    contest.assert_no_overlap()
