"""The command of the stage: ``python -m flows.stages.store INPUT OUTPUT``."""

import os
import sys

from flows.stages.runner.lean_imports import block_optional_imports

if __name__ == "__main__":
    block_optional_imports()
    from flows.stages.store.stage import main

    sys.exit(main(sys.argv[1:], os.environ))
