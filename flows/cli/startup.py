"""Run programs that import many modules with a garbage collector that rarely runs.

Prefect's modules are half a million objects that live until the process ends. By default Python examines all
of them again and again while they are imported, and once more when the process ends: a third of the CPU time
of a short command, and a tenth of the Prefect server's. ``python -m flows.cli.startup MODULE ARGUMENT…`` is
``python -m MODULE ARGUMENT…`` without that.

It imports nothing of the project by itself.
"""

from __future__ import annotations

import atexit
import gc
import runpy
import signal
import sys

#: Thresholds of the collector; Python's default is 700, 10, 10. The youngest generation is examined after so
#: many new objects, the next older one after so many such examinations.
_THRESHOLDS = (50_000, 20, 100)


def collect_seldom() -> None:
    """Let the collector examine objects less often, and none of them at the end of the process."""
    gc.set_threshold(*_THRESHOLDS)
    atexit.register(gc.freeze)


def tdp() -> None:
    """Run the command line `tdp`; Ctrl-C during its imports ends it at once, without a traceback of them."""
    collect_seldom()
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # in the background: ignored
    if is_default:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from flows.cli.main import main

    if is_default:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    main()


if __name__ == "__main__":
    collect_seldom()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
