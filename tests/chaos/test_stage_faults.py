"""Stages that misbehave: the whole tree ends, the error is kept, and the next try does the work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from plant import FLOW, STAGES, Plant

from flows.samples import write_samples

matrix = pytest.mark.matrix
MISBEHAVING = Path(__file__).parents[1] / "programs" / "misbehaving.py"
#: How it misbehaves, in which stage, and what the ledger says of that.
FAULTS = [
    ("hang", "convert", "TIMED_OUT", "ran longer than"),
    ("half", "extract", "FAILED", "left out"),
    ("memory", "convert", "FAILED", "MemoryError"),
    ("leave", "store", "COMPLETED", None),
    ("stderr", "extract", "FAILED", "the last words"),
    ("stdout", "store", "COMPLETED", None),
]
CASES = [
    pytest.param(how, each, outcome, error, marks=[] if each == stage and how in ("hang", "half") else matrix)
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


def _may_mount() -> bool:
    if os.geteuid() != 0 or not shutil.which("nsenter"):
        return False
    try_it = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(try_it, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _may_mount(), reason="only root may mount, where it may at all")
@pytest.mark.parametrize(
    "stage", ["convert", pytest.param("extract", marks=matrix), pytest.param("store", marks=matrix)]
)
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
def test_stage_that_eats_memory_is_what_the_kernel_ends_first(plant: Plant, stage: str) -> None:
    plant.configure(files=1, **{stage: 1.0})
    flow = plant.start_flow()
    work = plant.work(flow, stage)
    score = Path(f"/proc/{work.pid}/oom_score_adj")
    assert int(score.read_text()) > int(Path(f"/proc/{flow.pid}/oom_score_adj").read_text())
    assert flow.wait(120) == 0, plant.logs()
