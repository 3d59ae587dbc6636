"""The command of the stage: ``python -m flows.stages.extract INPUT OUTPUT [options]``."""

import sys

from flows.stages.extract.stage import main

if __name__ == "__main__":
    sys.exit(main())
