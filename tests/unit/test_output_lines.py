"""The output of a program as lines of a log."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from flows.errors import StageFailed
from flows.stages.runner.output_lines import LAST_LINES, MAX_CHARS, MAX_LINES, OutputLines
from flows.stages.runner.process import standby


def test_lines_are_whole_whatever_the_chunks_are() -> None:
    lines: list[str] = []
    output = OutputLines(lines.append)
    for stream, data in (
        ("stdout", b"one\ntw"),
        ("stderr", b"10 %\r20 %\r"),
        ("stdout", b"o\r\n\n"),
        ("stdout", "na\u00efve".encode()[:3]),
        ("stdout", "na\u00efve".encode()[3:]),
        ("stdout", b""),
        ("stderr", b""),
    ):
        output.feed(stream, data)
    assert lines == ["stdout: one", "stderr: 10 %", "stderr: 20 %", "stdout: two", "stdout: na\u00efve"]


def test_a_flood_is_bounded_and_the_result_line_is_not_logged() -> None:
    lines: list[str] = []
    output = OutputLines(lines.append)
    output.feed("stdout", b'{"stage": "extract", "files": []}\n')
    for _ in range(100):
        output.feed("stderr", b"x" * 1_000_000)
    output.feed("stderr", b"\n")
    assert lines == [f"stderr: {'x' * MAX_CHARS}\u2026"]
    output.feed("stdout", b"line\n" * 10_000)
    output.feed("stdout", b"")
    assert len(lines) == MAX_LINES + 1
    output.feed("stderr", b"why it failed")
    output.feed("stderr", b"")
    assert lines[MAX_LINES - 1 : MAX_LINES + 2] == [
        "stdout: line",
        f"The program has written {MAX_LINES} lines; of the rest, the last {LAST_LINES} are logged",
        f"{10_002 - MAX_LINES - LAST_LINES:,} lines are left out here",
    ]
    assert lines[-1] == "stderr: why it failed"
    assert len(lines) == MAX_LINES + 2 + LAST_LINES


async def test_the_lines_of_a_failing_program_are_logged(tmp_path: Path) -> None:
    code = "import sys; print('out', flush=True); sys.stderr.write('err'); sys.exit(3)"
    lines: list[str] = []
    async with standby(env={"PATH": os.environ["PATH"]}, lock=tmp_path / "lock") as supervisor:
        supervisor.on_output = OutputLines(lines.append).feed
        with pytest.raises(StageFailed, match="exit status 3"):
            await supervisor.run([sys.executable, "-c", code], timeout=30)
    assert sorted(lines) == ["stderr: err", "stdout: out"]


async def test_the_error_of_a_program_that_prints_only_to_stdout_is_reported(tmp_path: Path) -> None:
    async with standby(env={"PATH": os.environ["PATH"]}, lock=tmp_path / "lock") as supervisor:
        with pytest.raises(StageFailed, match=r"exit status 3.*licence expired"):
            await supervisor.run(["sh", "-c", "echo licence expired; exit 3"], timeout=30)
