"""Head of a stage's process tree: it ends the tree when the flow has died or cannot prove its sessions.

Run by path with the bare interpreter (``python -I -S supervisor.py LIFELINE STATUS LOCK``, about 10 ms) and
almost no imports, because each stage run starts one: json, signal and threading would take another 10 ms.

LIFELINE is a socket whose other end only the flow has. The flow sends a line ``length memory deadline``
(bytes of arguments; bytes of address space, 0 for no limit; the moment of :data:`CLOCK`, in nanoseconds,
after which the command must not begin) and the arguments with a NUL between two, so that the command stands
in no argument list and `pgrep -cf` counts the work alone. Descriptors that come with the line (the session
that holds the fence) stay open in this process until the tree is gone; the work, which may be hostile, does
not inherit them. From then on the flow sends a byte every second while it can prove its database sessions.
End of file, or no byte for :data:`WATCHDOG` seconds, ends the tree with SIGKILL. Only a socket or a pipe does
this on Linux and macOS alike: PR_SET_PDEATHSIG reaches one process only, and is used on top of it for the
case that this process is killed.

LOCK is the descriptor of a locked file that the whole tree inherits (:mod:`flows.stages.runner.work_lock`).

Into STATUS goes ``group N`` (the work's process group) as soon as it runs, ``unfed`` if the watchdog ended
it, ``waits N`` for a process that cannot be ended (another user's), and ``exit N TIME`` (nanoseconds of
:data:`CLOCK`) once **every** process of the tree has ended. End of file without ``exit`` means that this
process was killed."""

import _signal  # type: ignore[import-not-found]  # the standard library's own, without its enumerations
import _socket
import _thread
import os
import resource
import select
import sys
import time

#: Seconds without a byte from the flow after which the work is ended.
WATCHDOG = 5.0
#: Seconds after which the kernel ends this process, should it be frozen itself, and with it the work.
LAST_RESORT = 7.0
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
#: Includes the time in which the host was suspended, where the system has such a clock.
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def main() -> None:
    """Spawn the command, watch the lifeline, and report the exit status when the whole tree is gone."""
    lifeline, status = _socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    lock = int(sys.argv[3])
    for fd in (lifeline.fileno(), status):
        os.set_inheritable(fd, False)
    offer_to_oom_killer()
    adopt_orphans()
    hide_descriptors()
    argv, memory, deadline = read_request(lifeline)
    note(lock, b"begun")
    if now() > deadline:  # the flow was frozen after its last proof: another run may hold the fence by now
        report(status, b"unfed\n")
        os._exit(1)
    if memory:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    work = start(argv)
    note(lock, b"group %d" % work)
    report(status, b"group %d\n" % work)
    _thread.start_new_thread(watch, (lifeline, status, work))
    # Not reaped yet, so the group's number cannot be reused while it is signalled.
    os.waitid(os.P_PID, work, os.WEXITED | os.WNOWAIT)
    code = end_tree(work, status)
    note(lock, b"ended")
    report(status, b"exit %d %d\n" % (code, now()))
    os._exit(0)  # the lane waits for this exit, and an interpreter takes 10 ms to clean up


def prctl(option: int, value: int) -> None:
    """Call Linux's prctl; elsewhere do nothing."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of every orphan of the tree, so that none escapes by setsid (Linux only)."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def hide_descriptors() -> None:
    """Let no other process of this user copy the session's descriptor out of this process (Linux only)."""
    prctl(PR_SET_DUMPABLE, 0)


def offer_to_oom_killer() -> None:
    """Make the kernel kill the stage before PostgreSQL or the flow if memory runs out (Linux only)."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123  pathlib costs 15 ms
            file.write("500")
    except OSError:
        pass  # another system, or a higher score already


def now() -> int:
    """Return the moment of :data:`CLOCK` in nanoseconds."""
    return time.clock_gettime_ns(CLOCK)


def read_request(lifeline: _socket.socket) -> tuple[list[bytes], int, int]:
    """Return the command, its memory limit and its deadline; exit if the flow ended before it sent them."""
    data, ancillary, _, _ = lifeline.recvmsg(1 << 16, _socket.CMSG_SPACE(64))
    for _, _, rights in ancillary:
        for i in range(0, len(rights), 4):
            os.set_inheritable(int.from_bytes(rights[i : i + 4], sys.byteorder), False)
    while data and b"\n" not in data:
        data += receive(lifeline)
    head, _, arguments = data.partition(b"\n")
    if not head:
        sys.exit(1)
    length, memory, deadline = map(int, head.split())
    while len(arguments) < length:
        arguments += receive(lifeline)
    return arguments[:length].split(b"\0"), memory, deadline


def receive(lifeline: _socket.socket) -> bytes:
    """Return the next bytes from the flow; exit if it has ended."""
    return lifeline.recv(1 << 16) or sys.exit(1)


def start(argv: list[bytes]) -> int:
    """Start the command in a process group of its own and return its process id."""
    supervisor = os.getpid()
    work = os.fork()
    if work:
        try:  # noqa: SIM105  contextlib would cost every stage run its import
            os.setpgid(work, work)  # in both processes, because either may be first
        except OSError:
            pass  # it already runs its program, or has ended
        return work
    try:
        prctl(PR_SET_PDEATHSIG, _signal.SIGKILL)
        if os.getppid() != supervisor:
            os._exit(1)
        os.setpgid(0, 0)
        for ignored in (_signal.SIGPIPE, _signal.SIGXFSZ):  # Python ignores them, and so would its children
            _signal.signal(ignored, _signal.SIG_DFL)
        os.execvp(argv[0], argv)  # noqa: S606  the command comes from the flow, without a shell
    except OSError as error:
        os.write(2, f"cannot run {os.fsdecode(argv[0])}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def note(lock: int, line: bytes) -> None:
    """Write a line for a successor into the lock's file; a full disk must not end this process here."""
    try:  # noqa: SIM105  contextlib would cost every stage run its import
        os.write(lock, line + b"\n")
    except OSError:
        pass


def report(status: int, line: bytes) -> None:
    """Write to the flow. If it has died, this process must still not end before the work has ended."""
    try:  # noqa: SIM105  contextlib would cost every stage run its import
        os.write(status, line)
    except OSError:
        pass


def watch(lifeline: _socket.socket, status: int, work: int) -> None:
    """Kill the work's group once the flow's end of the lifeline closes or no byte has come in time.

    In a frozen host, container or cgroup this thread is frozen too. There the alarm of an interval timer,
    whose default action is to terminate, ends this process, and PR_SET_PDEATHSIG the work, before either
    continues.
    """
    fed = now()
    _signal.setitimer(_signal.ITIMER_REAL, LAST_RESORT)
    while True:
        ready = select.select([lifeline], [], [], 0.5)[0]
        # Checked first: a byte that was late, because flow or host were frozen, proves nothing any more.
        if now() - fed > WATCHDOG * 1_000_000_000:
            report(status, b"unfed\n")
            break
        if ready:
            try:
                if not lifeline.recv(1 << 10):
                    break
            except OSError:
                break
            fed = now()
            _signal.setitimer(_signal.ITIMER_REAL, LAST_RESORT)
    _signal.setitimer(_signal.ITIMER_REAL, 0)  # from here on this process must outlive the work
    kill(os.killpg, work)


def kill(how, number: int) -> bool:  # type: ignore[no-untyped-def]  # typing would cost its import
    """Send SIGKILL; False if this user may not."""
    try:
        how(number, _signal.SIGKILL)
    except PermissionError:
        return False
    except ProcessLookupError:
        pass
    return True


def end_tree(work: int, status: int) -> int:
    """Kill what is left of the work's group and every orphan, reap them all, return the work's status.

    A process of another user (a setuid program's child) ends by itself or by an operator's hand: until then
    this process stays, and with it the fence.
    """
    code, reported = 0, set()
    kill(os.killpg, work)
    while True:
        for orphan in children():
            if orphan != work and not kill(os.kill, orphan) and orphan not in reported:
                reported.add(orphan)
                report(status, b"waits %d\n" % orphan)
        try:
            pid, how = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == work:
            code = os.waitstatus_to_exitcode(how)
        if not pid:
            time.sleep(0.005)


def children() -> list[int]:
    """Return the ids of our children, where the kernel lists them."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:  # noqa: PTH123  pathlib costs 15 ms
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


if __name__ == "__main__":
    main()
