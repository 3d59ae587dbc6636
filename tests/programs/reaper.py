"""Ends what a process of the tests leaves running when it is killed, or has no time to end it itself.

usage: reaper.py FOLDER/...

Reads its standard input, whose other end only that process has, until that ends; then kills every process
that has one of the folders in its command line or in TDP_HOME, and removes the first folder.
"""

import contextlib
import shutil
import sys

import psutil


def belongs(process: psutil.Process, folders: list[str]) -> bool:
    words = [*process.cmdline(), process.environ().get("TDP_HOME", "")]
    return process.pid != psutil.Process().pid and any(folder in word for folder in folders for word in words)


def left_of(folders: list[str]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if belongs(process, folders):
                found.append(process)
    return found


sys.stdin.read()
while left := left_of(sys.argv[1:]):  # until none starts another one
    for member in left:
        with contextlib.suppress(psutil.Error):
            member.kill()
    psutil.wait_procs(left, 10)
shutil.rmtree(sys.argv[1], ignore_errors=True)
