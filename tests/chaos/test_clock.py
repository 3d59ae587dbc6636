"""A host whose clock jumps: all times in the ledger are those of the database."""

from __future__ import annotations

from pathlib import Path

import pytest
from plant import Plant

#: Debian's package libfaketime.
FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
matrix = pytest.mark.matrix
DISORDER = """
SELECT * FROM stage_runs
WHERE NOT (queued_at <= fenced_at AND fenced_at <= started_at AND started_at <= finished_at)
   OR queued_at < %s OR finished_at > clock_timestamp()
"""


@matrix
@pytest.mark.skipif(FAKETIME is None, reason="libfaketime (Debian: faketime) is not installed")
@pytest.mark.parametrize("jump", ["+1h", "-1h"])
@pytest.mark.parametrize("stage", ["extract", "convert", "store"])
def test_clock_of_a_host_jumps(plant: Plant, stage: str, jump: str) -> None:
    plant.configure(**{stage: 1.0})
    (row,) = plant.query("SELECT clock_timestamp() AS began")
    clock = plant.folder / "clock"
    clock.write_text("+0\n")
    flow = plant.start_flow(
        LD_PRELOAD=str(FAKETIME),
        FAKETIME_TIMESTAMP_FILE=str(clock),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    plant.in_stage(stage)
    clock.write_text(f"{jump}\n")
    assert flow.wait(150) == 0, plant.logs()
    plant.assert_nothing_lost_nothing_twice()
    plant.assert_nothing_left_behind()
    assert plant.query(DISORDER, row["began"]) == []
    too_long = "SELECT * FROM stage_runs WHERE finished_at - queued_at > interval '10 min'"
    assert plant.query(too_long) == []
