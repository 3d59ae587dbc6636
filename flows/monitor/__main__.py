"""Run the monitor of this installation until SIGTERM or Ctrl-C: ``python -m flows.monitor``."""

from flows.monitor.server import serve
from flows.settings import Settings

if __name__ == "__main__":
    serve(Settings())
