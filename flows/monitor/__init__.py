"""The monitor: health, conditions and metrics of one installation over HTTP."""

from flows.monitor.server import MonitorServer, monitor, serve

__all__ = ["MonitorServer", "monitor", "serve"]
