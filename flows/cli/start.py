"""The program `tdp`: it imports the commands, which takes half a second.

Meanwhile Ctrl-C ends it at once, as it ends programs in C; Python would print a traceback of the imports.
"""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line."""
    is_default = (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )  # in the background it is ignored
    if is_default:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from flows.cli.main import main as run

    if is_default:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()
