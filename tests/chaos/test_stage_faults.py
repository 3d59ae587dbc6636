"""Faulty stages: the whole process tree ends, the error is recorded, and the next attempt succeeds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from plant import FLOW, Plant
from plant_services import STAGES

from flows.samples import write_samples

matrix = pytest.mark.matrix
MISBEHAVING = Path(__file__).parents[1] / "programs" / "misbehaving.py"
AGAIN = """
import asyncio
from flows.backfill import backfill
asyncio.run(backfill(["batch_000001"], from_stage="{}"))
"""
POISONED = MISBEHAVING.with_name("poisoned.py")
#: The fault, the stage, and the outcome and error in the ledger.
FAULTS = [
    ("hang", "convert", "TIMED_OUT", "ran longer than"),
    ("half", "extract", "FAILED", "left out"),
    ("memory", "convert", "FAILED", "MemoryError"),
    ("leave", "store", "COMPLETED", None),
    ("stderr", "extract", "FAILED", "the last words"),
    ("stdout", "store", "COMPLETED", None),
]
CASES = [
    pytest.param(how, each, outcome, error, marks=[] if how == "half" else matrix)
    for how, stage, outcome, error in FAULTS
    for each in STAGES
    if how != "half" or each == "extract"
]


@pytest.mark.parametrize(("how", "stage", "outcome", "error"), CASES)
def test_misbehaving_stage(plant: Plant, how: str, stage: str, outcome: str, error: str | None) -> None:
    mark = plant.folder / "mark"
    argv = [sys.executable, str(MISBEHAVING), how, str(mark), stage, "{input}", "{output}"]
    limits = {"memory_mb": 4096, f"{stage}_timeout_minutes": 0.2 if how == "hang" else 5}
    plant.configure_stages({stage: argv}, **limits)
    plant.expected = write_samples(plant.settings.inbox, files=3, messages=30, seed=3, broken=1)
    flow = plant.start_flow()
    assert flow.wait(150) == 0, plant.logs()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind()
    first = plant.query("SELECT * FROM stage_runs WHERE stage = %s ORDER BY stage_run_id", stage)[0]
    assert first["outcome"] == outcome
    assert first["error"] is None if error is None else error in first["error"]
    if (mark / "pids").exists():
        pids = [int(pid) for pid in (mark / "pids").read_text().split()]
        assert not any(psutil.pid_exists(pid) for pid in pids)


@matrix  # in the suite, unit/test_convert_readers.py has files that crash a reader
@pytest.mark.parametrize(("how", "stage"), [("crash", "convert"), ("hang", "convert"), ("crash", "extract")])
def test_file_that_crashes_the_program_twice_is_quarantined(plant: Plant, how: str, stage: str) -> None:
    plant.expected = write_samples(plant.settings.inbox, files=3, messages=30, seed=3)
    poison = sorted(plant.expected.by_file)[1]
    argv = [sys.executable, str(POISONED), how, stage, poison, "{input}", "{output}"]
    plant.configure_stages({stage: argv}, **{f"{stage}_timeout_minutes": 0.1 if how == "hang" else 5})
    flow = plant.start_flow(FLOW.replace("batch_size=2", ""))
    assert flow.wait(150) == 0, plant.logs()
    files = plant.query(
        "SELECT name, f.status, f.error FROM source_files JOIN batch_files f USING (source_id)"
    )
    assert {file["name"]: file["status"] for file in files} == {
        name: "QUARANTINED" if name == poison else "STORED" for name in plant.expected.by_file
    }
    (reason,) = [file["error"] for file in files if file["error"]]
    assert f"the {stage} program crashed or timed out on it 2 times; last error: " in reason
    assert ("SIGSEGV" if how == "crash" else "ran longer than") in reason
    ends = plant.query("SELECT outcome FROM stage_runs WHERE stage = %s ORDER BY stage_run_id", stage)
    once = "FAILED" if how == "crash" else "TIMED_OUT"
    assert [end["outcome"] for end in ends] == [once, once, "COMPLETED"]
    plant.assert_nothing_left_behind()

    # Run again with a program that can read the file.
    plant.configure_stages({})
    assert plant.start_flow(AGAIN.format(stage)).wait(120) == 0, plant.logs()
    assert plant.query("SELECT DISTINCT status, error FROM batch_files") == [
        {"status": "STORED", "error": None}
    ]
    assert plant.query("SELECT count(*) AS n FROM messages") == [{"n": plant.expected.messages}]


def _may_mount() -> bool:
    if os.geteuid() != 0 or not shutil.which("nsenter"):
        return False
    try_it = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(try_it, capture_output=True, check=False).returncode == 0


@matrix
@pytest.mark.skipif(not _may_mount(), reason="mounting a tmpfs is not permitted here")
@pytest.mark.parametrize("stage", STAGES)
def test_full_disk_fails_a_stage_until_there_is_space(plant: Plant, stage: str) -> None:
    plant.configure(**{stage: 2.0})
    work = plant.settings.work
    work.mkdir(parents=True)
    mount = f"mount -t tmpfs -o size=8m tmpfs {work} && exec {sys.executable} -c '{FLOW}'"
    flow = plant.start_program(["unshare", "-m", "sh", "-c", mount])

    def inside(command: str) -> None:
        enter = ["nsenter", "-t", str(plant.work(None, stage).pid), "-m", "sh", "-c", command]
        subprocess.run(enter, capture_output=True, check=False)

    plant.in_stage(stage)
    inside(f"cat /dev/zero > {work}/ballast")
    failed = "SELECT 1 FROM stage_runs WHERE stage = %s AND outcome = 'FAILED'"
    plant.until(lambda: plant.query(failed, stage))
    inside(f"rm {work}/ballast")
    assert flow.wait(150) == 0, plant.logs()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind()
    errors = plant.query("SELECT error FROM stage_runs WHERE outcome = 'FAILED'")
    assert all("No space left" in error["error"] for error in errors), errors


@pytest.mark.parametrize("stage", [pytest.param("extract", marks=matrix), "convert"])
def test_kernel_kills_a_stage_first_when_memory_runs_out(plant: Plant, stage: str) -> None:
    plant.configure(files=1, **{stage: 1.0})
    flow = plant.start_flow()
    work = plant.work(flow, stage)
    score = Path(f"/proc/{work.pid}/oom_score_adj")
    assert int(score.read_text()) > int(Path(f"/proc/{flow.pid}/oom_score_adj").read_text())
    assert flow.wait(120) == 0, plant.logs()
