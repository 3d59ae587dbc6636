"""kill -9 of the bot at each point of receiving and announcing: nothing is lost, nothing comes twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from bot_api import BotApi
from bot_plant import ANNA, Plant, export

from flows import ledger

MIGRATIONS = Path(ledger.__file__).parent / "migrations"
NEWEST = next(iter(ScriptDirectory(str(MIGRATIONS)).walk_revisions())).revision
INTAKE = "SELECT pg_advisory_lock(1952739433, 0)"


async def after_restart(plant: Plant) -> None:
    """Start the bot again; the document must be received once, whole, and acknowledged."""
    async with plant.bot():
        await plant.received(1)
        await plant.until(lambda: not plant.api.pending)
        await plant.until(lambda: not plant.spooled())
    assert plant.sources() == [export()]
    assert plant.rows("SELECT count(*) AS n FROM receipts") == [{"n": 1}]
    assert plant.rows("SELECT count(*) AS n FROM arrivals") == [{"n": 0}]


async def test_before_the_commit(plant: Plant, api: BotApi) -> None:
    api.document(ANNA, "a.zip", export())
    with plant.locked("LOCK TABLE uploads IN EXCLUSIVE MODE"), plant.process():
        await plant.until(lambda: plant.waits("INSERT INTO uploads"))
        plant.end_statements()
    assert (plant.uploads(), len(api.pending)) == ([], 1)
    await after_restart(plant)


async def test_after_the_commit_before_the_acknowledgement(plant: Plant, api: BotApi) -> None:
    with plant.process():
        await plant.until(lambda: plant.rows("SELECT 1 FROM bots WHERE polled_at IS NOT NULL"))
        await plant.until(lambda: api.polls > 1)  # the request that waits for the document
        with api.hold("getFile"), api.hold("getupdates"):
            api.document(ANNA, "a.zip", export())
            await plant.until(lambda: plant.states() == {"SEEN": 1})
            pending = len(api.pending)
            await plant.until(lambda: any("offset" in given for _, given in list(api.requests)))
    assert (pending, len(api.pending)) == (1, 1)
    await after_restart(plant)


async def test_in_mid_download(plant: Plant, api: BotApi) -> None:
    api.document(ANNA, "a.zip", export())
    with api.hold("download") as reached, plant.process():
        await plant.until(reached.is_set)
        await plant.until(lambda: [name.endswith("a.zip.part") for name in plant.spooled()] == [True])
    assert plant.states() == {"SEEN": 1}
    await after_restart(plant)
    assert sum(method == "getFile" for method, _ in api.requests) == 2


async def test_between_the_rename_in_the_spool_and_the_ledger(plant: Plant, api: BotApi) -> None:
    api.document(ANNA, "a.zip", export())
    with plant.locked(INTAKE), plant.process():
        await plant.until(lambda: [name.endswith("a.zip") for name in plant.spooled()] == [True])
        await plant.until(lambda: plant.waits("pg_advisory_lock"))
    await after_restart(plant)
    assert sum(method == "getFile" for method, _ in api.requests) == 1


async def test_between_the_rename_into_the_sources_and_its_record(plant: Plant, api: BotApi) -> None:
    api.document(ANNA, "a.zip", export())
    with plant.locked("LOCK TABLE receipts IN EXCLUSIVE MODE"), plant.process():
        await plant.until(lambda: plant.waits("INSERT INTO receipts"))
        plant.end_statements()
    assert (plant.spooled(), plant.states()) == ([], {"SEEN": 1})
    await after_restart(plant)
    assert sum(method == "getFile" for method, _ in api.requests) == 1


async def test_between_the_receipt_and_the_upload(plant: Plant, api: BotApi) -> None:
    api.document(ANNA, "a.zip", export())
    with api.hold("download") as reached, plant.process():
        await plant.until(reached.is_set)
    with plant.locked("SELECT FROM uploads FOR UPDATE"), plant.process():
        await plant.until(lambda: plant.waits("SET state = 'RECEIVED'"))
        plant.end_statements()
    assert plant.rows("SELECT count(*) AS n FROM receipts") == [{"n": 1}]
    assert plant.states() == {"SEEN": 1}
    await after_restart(plant)


async def test_between_the_final_message_and_its_record(plant: Plant, api: BotApi) -> None:
    """A new message may come twice, but it comes; and its second copy is the one that is edited later."""
    api.document(ANNA, "a.zip", export())
    async with plant.bot():
        await plant.received(1)
    plant.rows("UPDATE uploads SET seen_at = seen_at - interval '1 minute'")
    plant.rows(
        "WITH batch AS (INSERT INTO batch_processing (status, file_count, error_message)"
        " VALUES ('FAILED', 1, 'the disk is broken') RETURNING batch_id)"
        " INSERT INTO batch_files (batch_id, source_id, position) SELECT batch_id, 1, 0 FROM batch"
    )

    def finals() -> list[str]:
        return [text for text in api.texts_to(ANNA) if "1 file: 1 failed" in text]

    with plant.locked("LOCK TABLE announcement_messages IN SHARE MODE"), plant.process():
        await plant.until(lambda: plant.waits("INSERT INTO announcement_messages"))
        plant.end_statements()
    assert finals() == []
    with plant.process():
        await plant.until(finals)
    async with plant.bot():
        await plant.until(lambda: plant.rows("SELECT 1 FROM announcements WHERE closed_at IS NOT NULL"))
    assert len(finals()) in (1, 2)


@pytest.mark.parametrize("number", [30])
async def test_many_kills_at_any_point(plant: Plant, api: BotApi, number: int) -> None:
    for index in range(number):
        api.document(ANNA, f"a{index}.zip", export(index))
    for count in range(1, 5):
        with plant.process():
            await plant.until(lambda least=count: sum(plant.states().values()) >= least)
            await plant.until(lambda least=6 * count: plant.states().get("RECEIVED", 0) >= least)
    async with plant.bot():
        await plant.received(number)
    assert sorted(plant.sources()) == sorted(map(export, range(number)))
    assert plant.rows("SELECT count(*) AS n FROM receipts") == [{"n": number}]


async def test_sessions_that_postgresql_ends(plant: Plant, api: BotApi) -> None:
    api.document(ANNA, "a.zip", export())
    with plant.locked(INTAKE):
        async with plant.bot():
            await plant.until(lambda: plant.waits("pg_advisory_lock"))
            plant.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE 'tdp bot%%'"
            )
            await plant.until(lambda: plant.waits("pg_advisory_lock"))
    await after_restart(plant)


async def test_a_database_that_is_unavailable_or_of_another_release(plant: Plant, api: BotApi) -> None:
    plant.rows("UPDATE tdp_schema_version SET version_num = '0007'")
    api.document(ANNA, "a.zip", export())
    with plant.process() as process:
        await plant.until(lambda: "this release needs schema" in plant.log.read_text())
        plant.rows("ALTER TABLE tdp_schema_version RENAME TO away")
        await plant.until(lambda: "has no tables of this project" in plant.log.read_text())
        plant.rows("ALTER TABLE away RENAME TO tdp_schema_version")
        plant.rows("UPDATE tdp_schema_version SET version_num = %s", NEWEST)
        await plant.received(1)
        assert process.poll() is None
