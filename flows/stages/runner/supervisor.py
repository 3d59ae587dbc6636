"""Head of a stage's process tree: it ends when the work ends, or when the flow is gone, whichever is first.

Run by path with the bare interpreter (``python -I -S supervise.py LIFELINE STATUS``, about 10 ms) and next to
no imports, because every stage run pays for it: json, signal and threading would take another 10 ms. The flow
writes a line ``length memory`` (the second in bytes, 0 for no limit) into the LIFELINE pipe, then as many
bytes of arguments with a NUL between two, and keeps it open: the command stands in no argument list, so
`pgrep -cf` counts the work alone. Whoever closes the other end (the flow on purpose, or the kernel when the
flow died) ends the tree with SIGKILL. Only a pipe does this on Linux and macOS alike: PR_SET_PDEATHSIG
follows the spawning thread and reaches one process only.

Into STATUS goes the work's process group as soon as it runs, and its exit status once **every** process of
the tree has ended; end of file without a status means that the supervisor itself was killed.
"""

import _thread
import os
import resource
import sys

PR_SET_CHILD_SUBREAPER = 36
SIGKILL, SIGPIPE, SIGXFSZ = 9, 13, 25


def main() -> None:
    """Spawn the command, watch the lifeline, and report the exit status when the whole tree is gone."""
    lifeline, status = int(sys.argv[1]), int(sys.argv[2])
    for fd in (lifeline, status):
        os.set_inheritable(fd, False)  # every other descriptor above 2 (the fence) is the work's to hold
    adopt_orphans()
    offer_to_oom_killer()
    argv, memory = read_request(lifeline)
    if memory:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    try:
        # Python ignores these two, and so would all that it starts.
        work = os.posix_spawnp(argv[0], argv, os.environ, setpgroup=0, setsigdef=(SIGPIPE, SIGXFSZ))
    except OSError as error:
        sys.stderr.write(f"cannot run {os.fsdecode(argv[0])}: {error.strerror}\n")
        sys.stderr.flush()
        tell(status, b"exit 127\n")
        return
    _thread.start_new_thread(end_with_flow, (lifeline, work))
    tell(status, b"group %d\n" % work)
    # Not reaped yet: the group's number cannot be given to anybody else while we signal it.
    os.waitid(os.P_PID, work, os.WEXITED | os.WNOWAIT)
    code = end_tree(work)
    tell(status, b"exit %d\n" % code)
    os._exit(0)  # the lane waits for our end, and an interpreter takes 10 ms to tidy up


def adopt_orphans() -> None:
    """Become the parent of every orphan of the tree, so that none escapes by setsid (Linux only)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def offer_to_oom_killer() -> None:
    """Let a machine without memory end the stage rather than PostgreSQL or the flow (Linux only)."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123  pathlib costs 15 ms
            file.write("500")
    except OSError:
        pass  # another system, or a higher score already


def read_request(fd: int) -> tuple[list[bytes], int]:
    """Return the command and its memory; exit if the flow died before it wrote all of it."""
    with open(fd, "rb", closefd=False) as pipe:
        head = pipe.readline().split()
        if len(head) == 2:
            arguments = pipe.read(int(head[0]))
            if len(arguments) == int(head[0]):
                return arguments.split(b"\0"), int(head[1])
    sys.exit(1)


def tell(status: int, line: bytes) -> None:
    """Write to the flow, which may be dead: that must not end us before the work has ended."""
    try:  # noqa: SIM105  contextlib would cost every stage run its import
        os.write(status, line)
    except BrokenPipeError:
        pass


def end_with_flow(lifeline: int, work: int) -> None:
    """Wait for the flow's end of the pipe to close, then kill the work's group; main sees it end."""
    while os.read(lifeline, 1):
        pass
    os.killpg(work, SIGKILL)


def end_tree(work: int) -> int:
    """Kill what is left of the work's group and every orphan, reap them all, return the work's status."""
    code = 0
    os.killpg(work, SIGKILL)
    while True:
        for orphan in children():
            if orphan != work:
                os.kill(orphan, SIGKILL)
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return code
        if pid == work:
            code = os.waitstatus_to_exitcode(status)


def children() -> list[int]:
    """Return the ids of our children, where the kernel tells."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:  # noqa: PTH123  pathlib costs 15 ms
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


if __name__ == "__main__":
    main()
