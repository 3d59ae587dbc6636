"""Conditions that last until an operator acts: failed batches and runs, quarantined files, broken rules.

They have the names of the automations in ``deployments/automations.py``, which the flows trigger by events of
their own, once per run: so the monitor sends no events of these conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import msgspec
import psycopg2

from flows.domain import BACKFILL, MAINTAIN, PROCESS_INBOX
from flows.errors import BatchesFailed, RulesBroken, ServiceFailed
from flows.ledger.connection import Connection
from flows.ledger.named_sql import load
from flows.reports import text
from flows.reports.prefect_api import request
from flows.settings import Settings

_sql = load("monitor.sql")

_ENDED = ["COMPLETED", "FAILED", "CRASHED"]
_FAILED = frozenset({"FAILED", "CRASHED"})
_SECONDS = 1.0
#: Characters of the description of a failed run.
_LENGTH = 300
#: The conditions, and their details while they do not fire.
OTHERWISE = {
    "batch_failed": "no batch is failed",
    "file_quarantined": "no quarantined file waits for a decision",
    "run_failed": "the last run of each flow completed, or its batches have since",
    "rule_broken": "the last audit found no broken rule",
}


class _State(msgspec.Struct, frozen=True):
    message: str | None = None


class LastRun(msgspec.Struct, frozen=True):
    """The run of a flow that ended last."""

    id: str
    name: str
    state_type: str
    state_name: str
    state: _State

    @property
    def problem(self) -> str | None:
        """How the run failed; None if it completed."""
        if self.state_type not in _FAILED:
            return None
        return text.short(
            f"{self.name}: {self.state_name}: {self.state.message or 'without a message'}", _LENGTH
        )

    @property
    def is_about_batches(self) -> bool:
        """Whether the run has failed only because batches of it have."""
        return self.state_type == "CRASHED" or BatchesFailed.__name__ in (self.state.message or "")


def last_runs(settings: Settings) -> dict[str, LastRun]:
    """Return the run of each flow that ended last. Raises ServiceFailed if the Prefect server does not
    respond."""
    found = {}
    for flow in (PROCESS_INBOX, BACKFILL, MAINTAIN):
        query = {
            "flows": {"name": {"any_": [flow]}},
            "flow_runs": {"state": {"type": {"any_": _ENDED}}},
            "sort": "END_TIME_DESC",
            "limit": 1,
        }
        body = request(settings, "POST", "/api/flow_runs/filter", msgspec.json.encode(query), _SECONDS)
        for run in msgspec.json.decode(body, type=list[LastRun]):
            found[flow] = run
    return found


def of_runs(
    settings: Settings, connect: Callable[[], AbstractContextManager[Connection]]
) -> dict[str, str | None]:
    """Return the problem of each condition according to the last runs; None if there is none.

    ``connect`` opens the ledger, if a run has failed.
    """
    try:
        runs = last_runs(settings)
    except ServiceFailed:  # the component prefect_server reports that
        return {}
    done_since = _done_since(runs.values(), connect)
    failed = [run.problem for run in runs.values() if run.problem and run.id not in done_since]
    audit = runs.get(MAINTAIN)
    broken = audit and audit.problem and RulesBroken.__name__ in (audit.state.message or "")
    return {
        "run_failed": "; ".join(failed) or None,
        "rule_broken": audit.problem if audit and broken else None,
    }


def _done_since(
    runs: Iterable[LastRun], connect: Callable[[], AbstractContextManager[Connection]]
) -> set[str]:
    """Return the ids of the runs that failed by a crash or their batches, which are completed now.

    A run that was killed is set to Crashed later than the run ends that completes its batches.
    """
    ids = [run.id for run in runs if run.problem and run.is_about_batches]
    if not ids:
        return set()
    try:
        with connect() as ledger:
            return set(_sql.runs_without_open_batches(ledger, flow_run_ids=ids))
    except psycopg2.OperationalError:  # the component postgres reports that
        return set()


def of_ledger(ledger: Connection) -> dict[str, str | None]:
    """Return the problem of each condition according to the ledger; None if there is none."""
    found = _sql.undecided(ledger)
    failed, quarantined = found["failed"], found["quarantined"]
    batches = text.count(failed, "batch has", "batches have")
    files = text.count(quarantined, "file is", "files are")
    return {
        "batch_failed": f"{batches} failed: `tdp batches --status failed`" if failed else None,
        "file_quarantined": f"{files} quarantined: `tdp files --status quarantined`" if quarantined else None,
    }
