"""The `tdp` command without services: versions, help, and errors without a traceback."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from flows import services
from flows.cli.foreground import _run_process, duplicate_lines
from flows.cli.main import app
from flows.cli.screen import Screen
from flows.domain import full_batch_id
from flows.errors import ServiceFailed
from flows.reports import Duplicate, text
from flows.settings import Settings


def tdp(*arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_versions_and_help() -> None:
    assert tdp("--version").stdout.startswith("tdp 0.")
    assert tdp("-h").stdout == tdp("--help").stdout
    assert "Exit status" in tdp("-h").stdout
    assert "--by" in tdp("timings", "-h").stdout


def test_ctrl_c_while_the_commands_are_imported_prints_no_traceback() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "flows.cli", "--version"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as started:
        assert started.stderr is not None
        fcntl.fcntl(started.stderr, fcntl.F_SETPIPE_SZ, 4096)  # it cannot run ahead of what is read
        assert any(line.endswith(" typer\n") for line in started.stderr)
        started.send_signal(signal.SIGINT)
        rest = started.stderr.read()
    assert "Traceback" not in rest
    assert started.returncode == -signal.SIGINT


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"TDP_SERVER_PORT": "abc"}, "TDP_SERVER_PORT: Input should be a valid integer"),
        ({"TDP_MONITOR_PORT": "70000"}, "TDP_MONITOR_PORT: Input should be less than"),
        ({"TDP_DATABASE_URL": "none"}, "TDP_DATABASE_URL: it is not a URL such as postgresql://"),
        (
            {"TDP_DATABASE_URL": "postgresql://u:50%@h/x"},
            "TDP_DATABASE_URL: it is not a URL such as postgresql://",
        ),
        ({"TDP_HOME": "/proc/none"}, "/proc/none: "),
        ({"TDP_HOME": __file__}, f"{__file__}"),
    ],
)
def test_a_wrong_setting_is_named_without_a_traceback(variables: dict[str, str], message: str) -> None:
    done = tdp("up", **variables)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


def test_an_argument_that_is_not_utf_8_is_named_without_a_traceback(database_url: str) -> None:
    for command in (["search", b"\xff\xfe"], ["stats", "--chat", b"\xff\xfe"]):
        done = tdp(*command, TDP_DATABASE_URL=database_url, TDP_HOME="/nonexistent")
        assert (done.returncode, done.stderr) == (1, "error: '\\udcff\\udcfe' cannot be encoded as UTF-8\n")


@pytest.mark.parametrize(
    "options",
    [
        *(["--timeout", wrong] for wrong in ("inf", "nan", "0", "1e10", "soon")),
        *(["--since", wrong] for wrong in ("999999d", "99999999999999d", "0001-01-01", "soon")),
    ],
)
def test_times_that_do_not_exist_are_usage_errors(options: list[str]) -> None:
    done = CliRunner().invoke(app, ["stats", *options])
    assert (done.exit_code, options[1] in done.output) == (2, True), done.exception


def test_both_ports_are_checked_before_a_service_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as used, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        monitor = used.getsockname()[1]
        home = tmp_path / "home"
        done = tdp("up", TDP_HOME=str(home), TDP_SERVER_PORT=str(port), TDP_MONITOR_PORT=str(monitor))
    assert done.stderr.startswith(f"error: Port {monitor} on 127.0.0.1 is in use. Set TDP_MONITOR_PORT")
    assert not home.exists()


@pytest.mark.parametrize("command", [["status"], ["hold", "--all"], ["backfill", "--dry-run"], ["apply"]])
def test_a_command_in_a_wrong_folder_names_the_home_that_does_not_run(
    command: list[str], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    done = tdp(*command, TDP_HOME=str(home))
    assert done.stderr.startswith(f"error: No services are running in {home}. Start them with `tdp up`")
    assert done.returncode == 1
    assert not home.exists()


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("batch_000042", "batch_000042"),
        ("batch_42", "batch_000042"),
        ("42", "batch_000042"),
        ("000042", "batch_000042"),
        ("1234567", "batch_1234567"),
    ],
)
def test_a_batch_is_named_by_its_id_or_its_number(given: str, full: str) -> None:
    assert full_batch_id(given) == full


@pytest.mark.parametrize("command", [["show"], ["hold"], ["resume"], ["backfill", "--dry-run"]])
def test_anything_but_a_batch_id_is_a_usage_error(command: list[str]) -> None:
    for wrong in ("42.5", "batch", "a.zip", "٤٢"):
        done = CliRunner().invoke(app, [*command, wrong])
        assert done.exit_code == 2
        assert "`tdp batches` lists the batches" in " ".join(done.output.replace("│", " ").split())


def test_numbers_agree_with_their_nouns() -> None:
    assert [text.count(n, "file", "files") for n in (0, 1, 1200)] == ["0 files", "1 file", "1,200 files"]


@pytest.mark.parametrize("command", ["search x", "export -", "stats"])
def test_a_period_ends_after_it_begins(command: str) -> None:
    runner = CliRunner(env={"COLUMNS": "300"})
    for period in (["--since", "2024-02-01", "--until", "2024-01-31"], ["--until", "9d", "--since", "1d"]):
        done = runner.invoke(app, [*command.split(), *period])
        assert done.exit_code == 2
        assert re.search(r"--since 20.* is later than --until 20", done.stderr)
    days = ["--processed-from", "2024-02-01", "--processed-to", "2024-01-31"]
    assert "--processed-from 2024-02-01 is later" in runner.invoke(app, ["backfill", *days]).stderr


@pytest.mark.parametrize("command", ["sample", "env"])
def test_a_closed_output_is_an_error(command: str, tmp_path: Path) -> None:
    arguments = [*command.split(), *([str(tmp_path)] if "sample" in command else [])]
    line = 'exec "$0" -m flows.cli "$@" >&-'
    done = subprocess.run(
        ["/bin/sh", "-c", line, sys.executable, *arguments], capture_output=True, check=False
    )
    closed = b"error: standard output is closed: redirect it to /dev/null if it is not wanted\n"
    assert (done.returncode, done.stderr) == (1, closed)
    if command == "sample":
        both = subprocess.run(
            ["/bin/sh", "-c", f"{line} 2>&-", sys.executable, *arguments], capture_output=True, check=False
        )
        assert (both.returncode, both.stderr) == (1, b"")


def test_many_duplicates_are_one_line() -> None:
    many = [
        Duplicate(f"{n}.zip", "/in", datetime.now(UTC), n, f"as {n}.zip", "batch_000001", "STORED")
        for n in range(11)
    ]
    assert [str(line) for line in duplicate_lines(many)] == [
        "11 files were known already: 0.zip (the content of as 0.zip), 1.zip (the content of as 1.zip),"
        " 2.zip (the content of as 2.zip), …; `tdp files --duplicates` lists all"
    ]
    assert len(duplicate_lines(many[1:])) == 10


def test_a_module_is_run_as_python_does_but_its_objects_are_examined_seldom(tmp_path: Path) -> None:
    program = "import gc, sys; print(__name__, sys.argv[1:], gc.get_threshold()[0]); sys.exit(3)"
    (tmp_path / "probe.py").write_text(program)
    command = [sys.executable, "-m", "flows.cli.startup", "probe", "one", "--two"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "__main__ ['one', '--two'] 50000\n")


def test_equal_ports_are_reported_before_anything_starts(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", server_port=5999, monitor_port=5999)
    with (
        pytest.raises(ServiceFailed, match="TDP_SERVER_PORT and TDP_MONITOR_PORT are both 5999"),
        services.installation(settings, with_monitor=True),
    ):
        pass
    assert not settings.home.exists()


def test_a_run_that_died_shows_the_end_of_its_own_log(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    settings.logs.mkdir()
    (settings.logs / "run.log").write_text("a line of another run\n")

    def kill(process: psutil.Popen, _: Path) -> None:
        process.kill()
        process.wait()

    with pytest.raises(ServiceFailed, match="was ended by SIGKILL"):
        _run_process("flow", settings, {}, Screen(), kill)
    with pytest.raises(ServiceFailed, match="ended with status 1") as failed:
        _run_process("no_such_module:flow", settings, {}, Screen(), lambda process, _: process.wait())
    assert "a line of another run" not in " ".join(failed.value.args)
    assert "no_such_module" in failed.value.args[-1]
