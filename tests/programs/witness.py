"""The built-in stage behind a program that cannot stand a second copy of itself, and takes its time.

usage: witness.py MARK SECONDS STAGE INPUT OUTPUT

Writes a line into MARK.crashed and fails if another copy for the same MARK is running. Sleeps SECONDS, and
for as long as there is a file MARK.hold, before the stage's work, so that a fault can meet it.
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
    # The work keeps the mark taken: it can outlive this program when that alone is killed.
    work = [sys.executable, "-I", "-m", f"flows.stages.{stage}", source, output]
    sys.exit(subprocess.call(work, pass_fds=[file.fileno()]))
