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
RUNS = """
INSERT INTO batch_processing (batch_id, file_count) VALUES ('batch_000001', 1);
INSERT INTO stage_runs (batch_id, stage, attempt, host, pid, queued_at, fenced_at, started_at, finished_at,
                        outcome)
SELECT 'batch_000001', stage, 1, 'here', 7, t, t, t, t + interval '5 s', 'COMPLETED'
FROM stages CROSS JOIN LATERAL (SELECT now() + position * interval '5 s') AS at (t);
"""
#: In a process of its own: the kernel is a child process with sockets and threads of its own.
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


def pictures(url: str, out: Path) -> int:
    env = os.environ | {"TDP_DATABASE_URL": url, "TDP_HOME": str(out.parent), "JUPYTER_PLATFORM_DIRS": "1"}
    command = [sys.executable, "-c", EXECUTE, NOTEBOOK, out]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cells = json.loads(out.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_the_notebook_draws_three_pictures(database_url: str, tmp_path: Path) -> None:
    messages = [(n, 37 * n, f"text {n}") for n in range(400)]
    export = Export(1, "channel1", "News", messages, sender=("user1", "Ann"))
    store(database_url, write(tmp_path / "in", export))
    with psycopg.connect(database_url) as connection:
        connection.execute(RUNS)
    assert pictures(database_url, tmp_path / "done.ipynb") == 3


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
