"""A program that shows when it runs: it appends its process id and the time to a file every millisecond.

usage: heart.py FILE SECONDS [--hide] [--child] [--also OTHER]

Unlike a lock, this also shows a process that was frozen and goes on. With --hide it closes all descriptors
first, with --child a child in a session of its own goes on for 600 s, with --also it writes to OTHER too.
Ends after SECONDS.
"""

import os
import sys
import time
from pathlib import Path

path, seconds, *options = sys.argv[1:]
if "--child" in options and os.fork() == 0:
    os.setsid()
    seconds = "600"
if "--hide" in options:
    os.closerange(0, 1_000)
file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
Path(f"{path}.{os.getpid()}").touch()
also = os.open(options[-1], os.O_WRONLY | os.O_CREAT) if "--also" in options else file
end = time.monotonic() + float(seconds)
while time.monotonic() < end:
    os.write(file, b"%d %d\n" % (os.getpid(), time.monotonic_ns()))
    if also != file:
        os.pwrite(also, b"x", 0)
    time.sleep(0.001)
