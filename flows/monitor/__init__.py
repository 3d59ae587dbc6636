"""Health and metrics over HTTP: is it alive, how is it doing, what needs a person."""

from flows.monitor.server import MonitorServer, monitor, serve

__all__ = ["MonitorServer", "monitor", "serve"]
