"""The gate's lines in the logs of the Prefect server, and whether each task run wrote them in their order.

A line can be lost on its way to a server that is killed. So lines that are not whole are held against what
the ledger says the task run did: they must be some of those it wrote then, in their order.
"""

from __future__ import annotations

import re
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import msgspec

from flows.ledger.connection import Connection
from flows.ledger.named_sql import load
from flows.reports.prefect_api import request
from flows.settings import Settings

#: Lines looked at, the newest first, and lines per request (the server's most).
_MOST, _PAGE = 20_000, 200
#: Waiting, acquired, released; one letter each. A run that is at work, or was killed there, released nothing.
_LINE = re.compile(r"(W)aiting for \w+ lock|\w+ lock ((?:a)cquired|(?:r)eleased)")
_ORDER = re.compile(r"(w(ar)?)*(wa)?")


_sql = load("verify.sql")


class _Log(msgspec.Struct):
    message: str
    timestamp: datetime
    task_run_id: str | None


def disordered_task_runs(
    connection: Connection, settings: Settings, since: datetime | None
) -> list[dict[str, Any]]:
    """Return the task runs whose lines are not waiting, acquired, released, as often as they tried.

    ``connection`` is the ledger's.

    Looks at the newest 20,000 lines. Raises ServiceFailed if the server does not answer.
    """
    lines: dict[str, str] = defaultdict(str)
    newest_first = _lines(settings, since)
    for log in reversed(newest_first):
        if log.task_run_id and (found := _LINE.match(log.message)):
            lines[log.task_run_id] += (found[1] or found[2])[0].lower()
    if len(newest_first) == _MOST:  # the oldest ones may have lost their beginning
        lines = defaultdict(str, {run: line for run, line in lines.items() if line.startswith("w")})
    odd = {run: line for run, line in lines.items() if not _ORDER.fullmatch(line)}
    rows = _sql.lines_to_expect(connection, task_run_ids=list(odd))
    whole = {row["task_run_id"]: row["lines"] for row in rows}
    return [
        {"task_run_id": run, "lines": line}
        for run, line in odd.items()
        if not _are_some_of(line, whole.get(run, ""))
    ]


def _are_some_of(lines: str, whole: str) -> bool:
    rest = iter(whole)
    return all(line in rest for line in lines)


def _lines(settings: Settings, since: datetime | None) -> list[_Log]:
    # Lines that come in meanwhile would shift the pages.
    within = {"before_": datetime.now(UTC).isoformat()} | ({"after_": since.isoformat()} if since else {})
    wanted = {"text": {"query": "lock"}, "timestamp": within}
    found: list[_Log] = []
    while len(found) < _MOST:
        query = {"logs": wanted, "sort": "TIMESTAMP_DESC", "limit": _PAGE, "offset": len(found)}
        body = request(settings, "POST", "/api/logs/filter", msgspec.json.encode(query), timeout=10)
        page = msgspec.json.decode(body, type=list[_Log])
        found += page
        if len(page) < _PAGE:
            break
    return found
