"""The services of one machine: PostgreSQL, Prefect server, worker, recovery, bot and monitor."""

from flows.services.background import bot, monitor_url, monitoring, recovery
from flows.services.installation import (
    AlreadyRunning,
    Installation,
    current,
    ensure_ledger,
    environment,
    installation,
    only_postgres,
    remove,
    running,
)
from flows.services.postgres import binary, ensure_database, postgres
from flows.services.prefect import WORK_POOL, free_port, is_free, prefect_server, server_url, ui_url, worker

__all__ = [
    "WORK_POOL",
    "AlreadyRunning",
    "Installation",
    "binary",
    "bot",
    "current",
    "ensure_database",
    "ensure_ledger",
    "environment",
    "free_port",
    "installation",
    "is_free",
    "monitor_url",
    "monitoring",
    "only_postgres",
    "postgres",
    "prefect_server",
    "recovery",
    "remove",
    "running",
    "server_url",
    "ui_url",
    "worker",
]
