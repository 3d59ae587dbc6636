"""The command of the stage: ``python -m flows.stages.convert INPUT OUTPUT``."""

import sys

from flows.stages.runner.lean_imports import block_optional_imports

if __name__ == "__main__":
    block_optional_imports()
    from flows.stages.convert.stage import main

    sys.exit(main(sys.argv[1:]))
