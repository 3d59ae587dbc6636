"""A program that runs the built-in stage and crashes if another copy of itself is running.

usage: witness.py MARK SECONDS STAGE INPUT OUTPUT

Writes a line to MARK.crashed and fails if another copy with the same MARK is running. Before the stage's work
it sleeps SECONDS, and while the file MARK.hold exists, so that tests can inject faults.
"""

import fcntl
import subprocess
import sys
import time
from pathlib import Path

mark, seconds, stage, source, output = sys.argv[1:]
with Path(mark).open("a") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with Path(mark + ".crashed").open("a") as crashed:
            crashed.write(f"{stage} {source}\n")
        sys.exit("another copy of this program is running")
    time.sleep(float(seconds))
    while Path(mark + ".hold").exists():
        time.sleep(0.05)
    # The work inherits the lock: it can outlive this program if only this program is killed.
    work = [sys.executable, "-I", "-m", f"flows.stages.{stage}", source, output]
    sys.exit(subprocess.call(work, pass_fds=[file.fileno()]))
