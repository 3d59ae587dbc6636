"""A program that misbehaves in its first run and runs the built-in stage afterwards.

usage: misbehaving.py HOW MARK STAGE INPUT OUTPUT

The first run creates the directory MARK. For hang and leave it writes the pids of all its processes into
MARK/pids.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

how, mark, stage, source, output = sys.argv[1:]
folder, built_in = Path(mark), [sys.executable, "-I", "-m", f"flows.stages.{stage}"]
NAP = [sys.executable, "-c", "import time; time.sleep(600)"]


def fork() -> None:
    """Start a child in this process group and one in its own session."""
    children = [subprocess.Popen(NAP), subprocess.Popen(NAP, start_new_session=True)]
    (folder / "pids.new").write_text(" ".join(str(pid) for pid in [os.getpid(), *(c.pid for c in children)]))
    (folder / "pids.new").rename(folder / "pids")


def misbehave() -> None:
    match how:
        case "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            fork()
            time.sleep(600)
        case "leave":
            fork()
        case "stderr":
            for _ in range(100):
                sys.stderr.write("no! " * 250_000)
            sys.exit("the last words")
        case "stdout":
            for _ in range(100):
                sys.stdout.write("yes " * 250_000 + "\n")
        case "half":
            subprocess.run([*built_in, source, output + ".whole"], check=True, capture_output=True)
            entries = sorted(Path(output + ".whole").glob("0*"))
            Path(output).mkdir()
            for entry in entries[: len(entries) // 2]:
                entry.rename(Path(output) / entry.name)
            shutil.rmtree(output + ".whole")
            sys.exit(0)
        case "memory":
            held = []
            while True:
                held.append(bytearray(64 << 20))


try:
    folder.mkdir()
except FileExistsError:
    pass
else:
    misbehave()
sys.exit(subprocess.call([*built_in, source, output]))
