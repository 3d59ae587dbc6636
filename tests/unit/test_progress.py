"""The progress line of a run."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from flows.cli.progress import Progress, read_run_id, run_id_file


def test_the_line_has_an_estimate_once_a_batch_has_ended() -> None:
    assert str(Progress(1, 0, 0, 1, 0, 5.0)) == "0 of 1 batch completed, 1 in progress"
    assert str(Progress(40, 9, 1, 8, 0, 50.0)) == (
        "9 of 40 batches completed, 1 failed, 8 in progress; about 2 min 30 s left"
    )
    assert str(Progress(2, 2, 0, 0, 0, 50.0)) == "2 of 2 batches completed"
    held = Progress(3, 1, 0, 0, 2, 50.0)  # what is held is not waited for
    assert str(held) == "1 of 3 batches completed, 2 held"


def test_the_id_of_the_run_is_next_to_its_outcome(tmp_path: Path) -> None:
    outcome, run = tmp_path / "outcome.json", uuid4()
    assert read_run_id(outcome) is None
    run_id_file(outcome).write_text(str(run))
    assert read_run_id(outcome) == run
