"""Behaves like the operators' extract and convert: crashes if another copy of itself is running.

usage: exclusive.py MARK SECONDS INPUT OUTPUT

MARK is a file that a running copy keeps locked. Copies INPUT to OUTPUT after SECONDS.
"""

import fcntl
import shutil
import sys
import time
from pathlib import Path

mark, seconds, source, output = sys.argv[1:]
with Path(mark).open("a") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("another copy of this program is running")
    time.sleep(float(seconds))
    partial = Path(output).with_name("partial-" + Path(output).name)
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    partial.rename(output)
