"""SIGINT and SIGTERM end a command that reads the data while it queries and while its output is blocked."""

from __future__ import annotations

import array
import fcntl
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from exports_of_tables import fill, many

SIGNALS = pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
AT_WORK = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%%FROM%%messages%%'"


@pytest.fixture
def filled(database_url: str) -> str:
    return fill(database_url)


@contextmanager
def started(url: str, folder: Path, command: list[str], out: int) -> Iterator[subprocess.Popen[bytes]]:
    env = os.environ | {"TDP_DATABASE_URL": url, "TDP_HOME": str(folder / "home")}
    arguments = [sys.executable, "-m", "flows.cli", *command]
    with subprocess.Popen(arguments, env=env, stdout=out, stderr=subprocess.PIPE) as process:
        yield process


def until(check: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not check():
        assert process.poll() is None, process.stderr and process.stderr.read()


@SIGNALS
@pytest.mark.parametrize(
    "command", [["search", "plain"], ["stats"], ["chat", "News"]], ids=lambda each: each[0]
)
def test_a_query_is_cancelled(
    filled: str, tmp_path: Path, signum: signal.Signals, command: list[str]
) -> None:
    with psycopg.connect(filled, autocommit=True) as opened:
        opened.execute("INSERT INTO search_pending VALUES (7)")
        opened.execute("ALTER TABLE messages RENAME TO kept")
        opened.execute("CREATE VIEW messages AS SELECT kept.* FROM kept, pg_sleep(600)")

        def is_at_work() -> bool:
            return opened.execute(f"{AT_WORK} AND pid <> pg_backend_pid()".encode()).fetchone() != (0,)

        with started(filled, tmp_path, command, subprocess.DEVNULL) as process:
            until(is_at_work, process)
            process.send_signal(signum)
            assert process.wait(60) == 130
        assert not is_at_work()


@SIGNALS
def test_a_pipe_that_is_not_read_can_be_interrupted(
    filled: str, tmp_path: Path, signum: signal.Signals
) -> None:
    many(filled, 20_000)
    reading, writing = os.pipe()
    room = array.array("i", [0])

    def is_full() -> bool:
        fcntl.ioctl(reading, termios.FIONREAD, room)
        return room[0] == fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)

    with started(filled, tmp_path, ["export", "-"], writing) as process:
        until(is_full, process)
        process.send_signal(signum)
        assert process.wait(60) == 130
    for each in (reading, writing):
        os.close(each)


def test_a_result_page_that_is_not_read_can_be_interrupted(filled: str, tmp_path: Path) -> None:
    many(filled, 5_000)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with psycopg.connect(filled) as opened:
        opened.execute("INSERT INTO search_pending VALUES (7)")
    command = ["search", "--substring", "a", "--limit", "1000", "--json"]
    with started(filled, tmp_path, command, writing) as process:
        os.read(reading, 1)  # the search has ended, and its output has begun
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    for each in (reading, writing):
        os.close(each)
