"""The built-in stage with a reader that crashes or hangs on one source file.

usage: poisoned.py crash|hang STAGE NAME INPUT OUTPUT

NAME is part of the name of that source file.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from flows.stages.convert import stage as convert
from flows.stages.extract import stage as extract

how, stage, name, source, output = sys.argv[1:]
module: Any = {"extract": extract, "convert": convert}[stage]
reader = f"_{stage}_file"
built_in = getattr(module, reader)


def poisoned(entry: Path, *rest: Any, **options: Any) -> Any:
    if name in entry.name:
        if how == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(600)
    return built_in(entry, *rest, **options)


setattr(module, reader, poisoned)
sys.exit(module.main([source, output]))
