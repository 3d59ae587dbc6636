"""Retention removes expired data, except what a live backfill or run needs; and the audit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.states import Completed
from psycopg.rows import dict_row

from blocks import PIPELINE, PipelineConfig
from flows.batches.receiving import GONE
from flows.ledger.batches import own_batch
from flows.ledger.owner import own_run
from flows.maintain import delete_runs, maintain
from flows.process_inbox import process_inbox
from flows.settings import Settings


def rows(settings: Settings, statement: str, *values: object) -> list[dict[str, Any]]:
    with psycopg.connect(settings.database, row_factory=dict_row, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []


def batch(settings: Settings, status: str, ended: str | None) -> tuple[str, Path, Path]:
    """Return a batch of one file that ended that long ago, its work directory and its stored source."""
    settings.sources.mkdir(parents=True, exist_ok=True)
    source = settings.sources / uuid4().hex
    source.write_text("content")
    (made,) = rows(
        settings,
        """
        WITH batch AS (
            INSERT INTO batch_processing (status, file_count, completed_at)
            VALUES (%s, 1, now() - %s::interval) RETURNING batch_id
        ), source AS (
            INSERT INTO source_files (sha256, name, size_bytes, stored_path, received_at)
            VALUES (encode(sha256(%s), 'hex'), 'a.zip', 7, %s, now() - interval '1 year') RETURNING source_id
        ), receipt AS (
            INSERT INTO receipts (source_id, origin, duplicate, received_at)
            SELECT source_id, 'inbox', false, now() - interval '1 year' FROM source
        ), runs AS (
            INSERT INTO stage_runs (batch_id, stage, attempt, host, pid, finished_at, outcome)
            SELECT batch_id, stage, 1, 'here', 1, now() + interval '1 minute', 'COMPLETED' FROM batch, stages
        )
        INSERT INTO batch_files (batch_id, source_id, position, status)
        SELECT batch_id, source_id, 1, 'STORED' FROM batch, source RETURNING batch_id
        """,
        status,
        ended,
        str(source).encode(),
        str(source),
    )
    work = settings.work / made["batch_id"]
    (work / "extract").mkdir(parents=True)
    (work / "extract" / "manifest.json").write_text("{}")
    (work / ".convert.partial").mkdir()
    return made["batch_id"], work, source


@pytest.mark.parametrize(
    ("status", "ended", "work_stays", "source_stays"),
    [
        ("COMPLETED", "50 minutes", True, True),
        ("COMPLETED", "70 minutes", False, True),
        ("COMPLETED", "29 days", False, True),
        ("COMPLETED", "31 days", False, False),
        ("FAILED", "6 days", True, True),
        ("FAILED", "8 days", False, True),
        ("FAILED", "1 year", False, True),
        ("STORING", None, True, True),
    ],
)
async def test_retention_times_by_status(
    installation: Settings, status: str, ended: str | None, work_stays: bool, source_stays: bool
) -> None:
    _, work, source = batch(installation, status, ended)
    await maintain()
    assert work.exists() is work_stays
    assert source.exists() is source_stays
    assert not (work / ".convert.partial").exists()
    (ledger,) = rows(installation, "SELECT purged_at IS NULL AS kept FROM source_files")
    assert ledger["kept"] is source_stays


@pytest.fixture
async def other_times(installation: Settings) -> AsyncIterator[None]:
    """Retention of three days for work directories and one day for sources, during the test."""
    config = await PipelineConfig.aload(PIPELINE)
    other = config.model_copy(update={"keep_work_hours": 72.0, "keep_sources_days": 1.0})
    await other.asave(PIPELINE, overwrite=True)
    yield
    await config.asave(PIPELINE, overwrite=True)


@pytest.mark.usefixtures("other_times")
async def test_retention_times_are_settings(installation: Settings) -> None:
    _, work, source = batch(installation, "COMPLETED", "2 days")
    assert (await maintain())["source_files"] == 1
    assert work.exists()
    assert not source.exists()


async def test_a_quarantined_source_is_kept_with_its_batch_until_it_was_returned(
    installation: Settings,
) -> None:
    """Without the other files, its batch could not run again."""
    batch_id, _, source = batch(installation, "COMPLETED", "1 year")
    other, _, neighbour = batch(installation, "COMPLETED", "1 year")
    rows(installation, "UPDATE batch_files SET status = 'QUARANTINED', error = 'it is encrypted'")
    move = "UPDATE batch_files SET batch_id = %s, position = 2, status = 'STORED', error = NULL"
    rows(installation, f"{move} WHERE batch_id = %s", batch_id, other)
    await maintain(return_state=True)  # its audit misses the emptied batch's file
    assert source.exists()
    rows(installation, "UPDATE source_files SET returned_at = now() - interval '29 days'")
    await maintain(return_state=True)
    assert source.exists()
    assert neighbour.exists()
    rows(installation, "UPDATE source_files SET returned_at = now() - interval '31 days'")
    await maintain(return_state=True)
    assert not source.exists()
    assert not neighbour.exists()


async def test_sources_of_a_batch_with_a_missing_file_are_kept(installation: Settings) -> None:
    batch_id, _, source = batch(installation, "COMPLETED", "1 year")
    other, _, missing = batch(installation, "COMPLETED", "1 year")
    move = "UPDATE batch_files SET batch_id = %s, position = 2, status = 'QUARANTINED', error = %s"
    rows(installation, f"{move} WHERE batch_id = %s", batch_id, f"{GONE}: copy it", other)
    missing.unlink()
    state = await maintain(return_state=True)
    assert "sources (1 rows)" in str(state.message)
    assert source.exists()


async def test_files_that_a_killed_run_has_not_removed_are_removed(installation: Settings) -> None:
    unremovable = batch(installation, "COMPLETED", "1 day")[2]
    _, _, source = batch(installation, "COMPLETED", "1 day")
    unremovable.unlink()
    unremovable.mkdir()
    rows(installation, "UPDATE source_files SET purged_at = now()")
    await maintain()
    assert not source.exists()


async def test_what_was_left_in_another_folder_is_forgotten_with_its_run(installation: Settings) -> None:
    for folder, age in ((installation.inbox, 31), ("/elsewhere", 31), ("/elsewhere", 29)):
        rows(
            installation,
            "INSERT INTO left_files VALUES (%s, 'a.pdf', '', 'a PDF', false, now() - %s * interval '1 day')",
            str(folder),
            age,
        )
    await maintain()
    days = "SELECT folder, round(extract(epoch FROM now() - noticed_at) / 86400)::int AS age FROM left_files"
    assert {(row["folder"], row["age"]) for row in rows(installation, days)} == {
        (str(installation.inbox), 31),
        ("/elsewhere", 29),
    }


async def test_batches_listed_by_a_live_backfill_are_kept(installation: Settings) -> None:
    listed, work, source = batch(installation, "COMPLETED", "1 year")
    _, other_work, other_source = batch(installation, "COMPLETED", "1 year")
    run_id = uuid4()
    listing = (
        "INSERT INTO run_batches (flow_run_id, position, batch_id, from_stage) VALUES (%s, 0, %s, 'store')"
    )
    rows(installation, listing, run_id, listed)
    async with own_run(run_id, installation.database):
        await maintain()
    assert work.exists()
    assert source.exists()
    assert not other_work.exists()
    assert not other_source.exists()
    await maintain()
    assert not work.exists()
    assert not source.exists()


async def test_work_of_an_owned_batch_is_kept(installation: Settings) -> None:
    batch_id, work, _ = batch(installation, "FAILED", "1 year")
    async with own_batch(batch_id, installation.database):
        await maintain()
        assert (work / ".convert.partial").exists()
    await maintain()
    assert not work.exists()


async def test_retention_of_a_source_file_starts_at_its_last_arrival(installation: Settings) -> None:
    _, _, source = batch(installation, "COMPLETED", "1 year")
    again = "INSERT INTO receipts (source_id, origin, duplicate) SELECT source_id, '', true FROM source_files"
    rows(installation, again)
    await maintain()
    assert source.exists()


async def test_a_broken_rule_fails_the_run_after_all_is_removed(installation: Settings) -> None:
    _, work, _ = batch(installation, "COMPLETED", "1 day")
    stray = installation.work / "batch_999999"
    stray.mkdir()
    state = await maintain(return_state=True)
    assert state.is_failed()
    assert "rules are broken: work (1 rows)" in str(state.message)
    assert not work.exists()
    assert stray.exists()


async def test_old_runs_are_deleted_but_not_those_of_other_flows(installation: Settings) -> None:
    @flow
    def another_flow() -> None: ...

    async with get_client() as client:
        ours = [await client.create_flow_run(process_inbox, state=Completed()) for _ in range(3)]
        running = await client.create_flow_run(process_inbox)
        theirs = await client.create_flow_run(another_flow, state=Completed())
        known = FlowRunFilter.model_validate({"id": {"any_": [run.id for run in (*ours, running, theirs)]}})
        await delete_runs(client, timedelta(days=1))
        assert len(await client.read_flow_runs(flow_run_filter=known)) == 5
        await delete_runs(client, timedelta(seconds=-60))
        left = await client.read_flow_runs(flow_run_filter=known)
    assert {run.id for run in left} == {running.id, theirs.id}


async def test_it_indexes_messages_for_search(installation: Settings) -> None:
    rows(
        installation,
        "INSERT INTO messages (chat_key, message_id, type, text, revision, source_id)"
        " VALUES ('channel1', 1, 'message', 'Café', '1', 7)",
    )
    rows(installation, "INSERT INTO search_pending VALUES (7)")
    await maintain()
    assert rows(installation, "SELECT plain FROM search_documents") == [{"plain": "cafe"}]
    assert rows(installation, "SELECT * FROM search_pending") == []
