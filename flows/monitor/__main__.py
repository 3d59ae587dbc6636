"""Run the monitor of this installation until it is told to stop: ``python -m flows.monitor``."""

from flows.monitor.server import serve
from flows.settings import Settings

if __name__ == "__main__":
    serve(Settings())
