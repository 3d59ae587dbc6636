"""The incremental totals of the monitor equal those of the whole ledger."""

from __future__ import annotations

import random
from contextlib import closing

import psycopg
import psycopg2
import pytest

from flows.monitor import history
from flows.monitor.history import History

RUN = """
INSERT INTO stage_runs (batch_id, stage, attempt, host, pid, queued_at, fenced_at, started_at)
SELECT batch_id, %s, 1, 'here', 1, t - interval '3 s', t, t
FROM batch_processing, LATERAL (SELECT now() - %s * interval '1 s' AS t) began
"""
END = """
UPDATE stage_runs SET finished_at = least(started_at + random() * interval '20 s', now()), outcome = %s
WHERE finished_at IS NULL AND stage_run_id %% 3 = %s
"""
OUTCOMES = "SELECT stage, outcome, count(*) FROM stage_runs WHERE outcome IS NOT NULL GROUP BY stage, outcome"
STARTED = "SELECT count(*) FROM stage_runs"
OVERLAPS = "SELECT count(*) FROM stage_overlaps"


@pytest.mark.parametrize("seed", range(3))
def test_totals_agree_with_the_whole_ledger_at_every_read(
    database_url: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_PAGE", 7)
    rng = random.Random(seed)
    counted = History([1.0, 10.0])
    with (
        psycopg.connect(database_url, autocommit=True) as ledger,
        closing(psycopg2.connect(database_url)) as reader,
    ):
        reader.autocommit = True
        ledger.execute("INSERT INTO batch_processing (file_count) VALUES (1)")
        for step in range(8):
            # Runs start after all settled ones, as in operation; many overlap, and some never end.
            began = sorted((rng.randint(60 * (7 - step), 60 * (8 - step)) for _ in range(10)), reverse=True)
            for ago in began:
                ledger.execute(RUN, [rng.choice(["extract", "convert", "store"]), 10 * ago + 90])
            ledger.execute(END, [rng.choice(["COMPLETED", "LOST"]), rng.randrange(3)])
            totals = counted.read(reader)
            found = {(stage, outcome): runs for stage, outcome, runs in ledger.execute(OUTCOMES).fetchall()}
            assert totals.outcomes == found
            assert totals.waits.total() == _count(ledger, STARTED) == 10 * (step + 1)
            assert totals.durations.total() == sum(
                runs for (_, how), runs in found.items() if how == "COMPLETED"
            )
            assert totals.overlaps == _count(ledger, OVERLAPS) > 0


def test_a_run_started_within_a_run_counted_before_overlaps(database_url: str) -> None:
    counted = History([1.0])
    with (
        psycopg.connect(database_url, autocommit=True) as ledger,
        closing(psycopg2.connect(database_url)) as reader,
    ):
        reader.autocommit = True
        ledger.execute("INSERT INTO batch_processing (file_count) VALUES (1)")
        ledger.execute(RUN, ["extract", 1000])
        ledger.execute("UPDATE stage_runs SET finished_at = now() - interval '500 s', outcome = 'COMPLETED'")
        ledger.execute(RUN, ["extract", 900])  # still at work: only runs started before it are settled
        assert [counted.read(reader).overlaps for _ in range(2)] == [1, 1]
        ledger.execute(RUN, ["convert", 10])
        assert counted.read(reader).overlaps == _count(ledger, OVERLAPS) == 1


def _count(ledger: psycopg.Connection, query: str) -> int:
    row = ledger.execute(query.encode()).fetchone()
    assert row
    return int(row[0])
