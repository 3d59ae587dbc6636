"""Commands in a terminal: up, run, Prefect's own commands, and Ctrl-C."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flows import services

if TYPE_CHECKING:
    from conftest import Installed

ROWS = "SELECT (SELECT count(*) FROM chats) AS chats, (SELECT count(*) FROM messages) AS messages"


def test_up_names_what_it_starts_as_it_starts(up: Installed) -> None:
    screen = (up.flags / "up.log").read_text()
    begun = [line for line in screen.splitlines() if line.startswith(("Starting", "Checking", "Applying"))]
    lines = [line for line in begun if " s so far" not in line]  # a step that lasts is reported again
    assert lines == [
        "Starting PostgreSQL",
        "Checking the schema of the ledger",
        "Starting the Prefect server",
        "Applying limits, blocks, deployments and automations",
        "Starting the worker",
        "Starting recovery",
        "Starting the monitor",
    ]
    assert screen.index(lines[-1]) < screen.index("Prefect UI") < screen.index("Ready.")


def test_run_started_from_another_terminal_completes(up: Installed) -> None:
    (before,) = up.query(ROWS)
    expected = up.drop(12, seed=41)
    batches = up.next_batches(2)

    output = up.type("prefect", "deployment", "run", "process-inbox/scheduled", "--watch")

    assert "Flow run finished successfully in 'Completed'." in output
    (after,) = up.query(ROWS)
    assert after["chats"] - before["chats"] == expected.chats
    assert after["messages"] - before["messages"] == expected.messages
    assert list(up.settings.inbox.iterdir()) == []
    assert up.statuses(*batches) == ["COMPLETED"] * 2
    listed = up.type("tdp", "batches", "--limit", "2").splitlines()
    assert [line.split()[:2] for line in listed[1:3]] == [
        [batches[1], "COMPLETED"],
        [batches[0], "COMPLETED"],
    ]
    assert up.type("tdp", "psql", "-Atc", "SELECT count(*) FROM stage_overlaps") == "0\n"
    up.type("tdp", "verify")


def test_tdp_run_processes_real_exports(up: Installed, samples: Path, tmp_path: Path) -> None:
    folders = [folder for folder in samples.iterdir() if folder.is_dir()]
    for folder in folders:
        shutil.make_archive(str(tmp_path / folder.name), "zip", folder)
    first = min(tmp_path.iterdir())
    shutil.copy(first, tmp_path / "again.zip")
    (batch,) = up.next_batches(1)

    output = up.type("tdp", "run", str(tmp_path), status=3)  # one of them has a broken export

    assert re.search(r"^Runs +1 +1 +1$", output, re.MULTILINE), output
    assert re.search(r"^Completed \d+ stored, 1 in part; 1 duplicate$", output, re.MULTILINE)
    assert re.findall(r"^\d+ of 1 batch completed.*$", output, re.MULTILINE)[-1] == "1 of 1 batch completed"
    assert f"DUPLICATE  again.zip: the content of {first.name} ({batch})" in output
    assert up.url in output
    files = up.query("SELECT * FROM batch_files WHERE batch_id = %s", batch)
    assert len(files) == len(folders)
    assert all(file["status"] == "STORED" or file["error"] for file in files)
    twin = up.query(
        "SELECT count(*) AS n FROM messages JOIN source_files USING (source_id) WHERE name = %s",
        "public_channel_twin.zip",
    )
    assert twin == [{"n": 213}]


def test_ctrl_c_on_tdp_run_holds_its_batches_until_they_are_resumed(up: Installed) -> None:
    up.obstruct("extract")
    first, second = up.next_batches(2)
    up.flag(first, "hold")
    up.drop(4, seed=54)
    screen = up.flags / "run.log"
    command = [Path(sys.executable).parent / "tdp", "run", "--batch-size", "2"]
    with screen.open("wb") as out:
        run = subprocess.Popen(command, env=up.environment, stdout=out, stderr=out, start_new_session=True)
    up.until(lambda: len(up.works()) == 1)
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(60) == 130
    assert up.works() == []
    up.flag(first, "hold").unlink()
    said = " ".join(screen.read_text().split())
    assert f"Held: {first}, {second}. The next run continues them after `tdp resume {first} {second}`" in said
    assert "Retry" not in said, "the UI does not offer it to a run without a deployment"
    shown = " ".join(up.type("tdp", "batches", "--held").split())
    assert shown.count("interrupted in the terminal") == 2

    up.ended(up.run_deployment("process-inbox/scheduled"))  # as the schedule does
    assert up.statuses(first, second) == ["QUEUED", "QUEUED"]
    assert up.type("tdp", "resume", first, second).count("resumed") == 2
    up.until(lambda: up.statuses(first, second) == ["COMPLETED", "COMPLETED"])  # by recovery


def test_ctrl_c_and_sigterm_end_every_process_and_the_next_run_resumes(up: Installed) -> None:
    up.obstruct("extract")
    (batch,) = up.next_batches(1)
    up.flag(batch, "hold")
    (before,) = up.query(ROWS)
    expected = up.drop(2, seed=51)
    up.run_deployment("process-inbox/scheduled")
    up.at_work()
    _end(up, signal.SIGINT)

    up.start()
    up.flag(batch, "hold").unlink()
    up.run_deployment("process-inbox/scheduled")
    up.until(lambda: up.statuses(batch) == ["COMPLETED"])  # not held: no run was cancelled
    assert up.query(ROWS)[0]["messages"] - before["messages"] == expected.messages
    first, *others = up.stage_runs(batch)
    assert first in [("extract", 1, "CANCELLED"), ("extract", 1, "LOST")]
    assert others == [("extract", 2, "COMPLETED"), ("convert", 1, "COMPLETED"), ("store", 1, "COMPLETED")]

    up.until(lambda: not up.open_runs())  # one that recovery has requested would receive the next file
    (batch,) = up.next_batches(1)
    up.flag(batch, "hold")
    up.drop(1, seed=52)
    up.run_deployment("process-inbox/scheduled")
    up.at_work()
    _end(up, signal.SIGTERM)


def _end(up: Installed, how: signal.Signals) -> None:
    """End `tdp up` in the middle of an extract, and check that no process and no port is left."""
    up.until(lambda: len(up.works()) == 1)  # the ledger records the start before the program runs
    assert up.stop(how) == 0
    assert [process.cmdline() for process in up.processes()] == []
    for port in (up.settings.server_port, up.settings.monitor_port):
        assert services.is_free(up.settings.server_host, port)
    assert services.running(up.settings) is None
