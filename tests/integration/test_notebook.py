"""The notebook runs on an installation and draws its three pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
from converted import Export, store, write

NOTEBOOK = Path(__file__).parents[2] / "deployments" / "notebooks" / "first_look.ipynb"
#: Two runs, the later one with two batches, each of which has flow runs of its own.
RUNS = """
INSERT INTO batch_processing (batch_id, file_count) SELECT 'batch_00000' || n, 1 FROM generate_series(1, 3) n;
INSERT INTO run_batches (flow_run_id, position, batch_id, listed_at)
SELECT md5((n / 2)::text)::uuid, n, 'batch_00000' || n, now() + n / 2 * interval '1 min'
FROM generate_series(1, 3) n;
INSERT INTO stage_runs (batch_id, stage, attempt, host, pid, queued_at, fenced_at, started_at, finished_at,
                        outcome, flow_run_id)
SELECT batch_id, stage, 1, 'here', 7, t, t, t, t + interval '5 s', 'COMPLETED', gen_random_uuid()
FROM run_batches CROSS JOIN stages
CROSS JOIN LATERAL (SELECT listed_at + stages.position * interval '5 s') AS at (t);
"""
#: In a process of its own: the kernel is a child process with sockets and threads of its own.
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


def executed(url: str, out: Path) -> tuple[int, str]:
    """Return the number of pictures and the printed text."""
    env = os.environ | {"TDP_DATABASE_URL": url, "TDP_HOME": str(out.parent), "JUPYTER_PLATFORM_DIRS": "1"}
    command = [sys.executable, "-c", EXECUTE, NOTEBOOK, out]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cells = json.loads(out.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    lines = [line for output in outputs if output.get("name") == "stdout" for line in output["text"]]
    return sum("image/png" in output.get("data", {}) for output in outputs), "".join(lines)


def test_the_notebook_draws_three_pictures_of_which_one_shows_the_last_run(
    database_url: str, tmp_path: Path
) -> None:
    messages = [(n, 37 * n, f"text {n}") for n in range(400)]
    export = Export(1, "channel1", "News", messages, sender=("user1", "Ann $1 \\ $2"))
    store(database_url, write(tmp_path / "in", export))
    with psycopg.connect(database_url) as connection:
        connection.execute(RUNS)
    pictures, printed = executed(database_url, tmp_path / "done.ipynb")
    assert pictures == 3
    assert "6 stage runs of 2 batches" in printed


def test_the_notebook_runs_on_an_empty_installation(database_url: str, tmp_path: Path) -> None:
    pictures, printed = executed(database_url, tmp_path / "done.ipynb")
    assert pictures == 3
    assert "0 messages in 0 chats" in printed


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
