"""The command of the stage: ``python -m flows.stages.convert INPUT OUTPUT``."""

import os
import sys

from flows.stages.runner.lean_imports import block_optional_imports

if __name__ == "__main__":
    block_optional_imports()
    # For many short-lived buffers, Arrow's own allocator takes a twentieth more time and a third more memory.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    from flows.stages.convert.stage import main

    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # everything is written and closed; to free all modules takes 10 ms
