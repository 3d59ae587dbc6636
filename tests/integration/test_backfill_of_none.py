"""A backfill whose filters no batch matches: a dry run says so, a run is an error."""

from __future__ import annotations

import asyncio
import json

from typer.testing import CliRunner

from flows.backfill import backfill
from flows.cli.main import app
from flows.errors import NothingChosen
from flows.settings import Settings


def test_a_dry_run_that_finds_nothing_says_so(installation: Settings) -> None:
    def tdp(*options: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["backfill", *options])
        assert not isinstance(done.exception, NothingChosen)
        return done.exit_code, done.stdout

    failed = ("--status", "failed", "--dry-run")
    assert tdp(*failed) == (0, "No batch matches all filters: nothing would run.\n")
    status, printed = tdp(*failed, "--json")
    assert (status, json.loads(printed)["batches"]) == (0, [])
    assert isinstance(CliRunner().invoke(app, ["backfill", "--dry-run"]).exception, NothingChosen)
    counts = asyncio.run(backfill(status="FAILED", dry_run=True))
    assert counts == {"batches": 0, "refused": 0, "seconds": 0}
