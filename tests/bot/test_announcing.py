"""The messages to senders: one status message, edited; final messages that name every file; receipts."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from bot_api import BotApi, Said
from bot_plant import ANNA, BORIS, Plant, export

from flows.bot import announcing, texts
from flows.bot.context import Context

BATCH = """
WITH batch AS (
    INSERT INTO batch_processing (status, file_count) SELECT 'QUEUED', count(*) FROM source_files s
    WHERE NOT EXISTS (SELECT FROM batch_files f WHERE f.source_id = s.source_id) RETURNING batch_id
)
INSERT INTO batch_files (batch_id, source_id, position)
SELECT batch_id, source_id, row_number() OVER (ORDER BY source_id) FROM batch, source_files s
WHERE NOT EXISTS (SELECT FROM batch_files f WHERE f.source_id = s.source_id)
RETURNING batch_id
"""
COUNTED = """
UPDATE batch_files SET rows_new = messages - 100, rows_changed = 20, rows_same = 80 WHERE status = 'STORED'
"""
DONE = "UPDATE batch_processing SET status = 'COMPLETED', completed_at = now()"
OUTCOME = """
UPDATE batch_files SET status = %s, messages = %s, error = %s
WHERE source_id = (SELECT source_id FROM source_files WHERE name = %s)
"""
STORED = "UPDATE batch_files SET status = 'STORED', chats = 1, messages = 1200 WHERE status = 'WAITING'"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcing, "_EDITS_APART", 0.4)
    monkeypatch.setattr(announcing, "_LOOK_EVERY", 0.1)
    monkeypatch.setattr(announcing, "_LOOK_AT_ENDED_EVERY", 0.2)
    monkeypatch.setattr(announcing, "_PAUSE", 0.2)
    monkeypatch.setattr(announcing, "_QUIET", 0.5)


def closed(plant: Plant, number: int = 1) -> bool:
    return len(plant.rows("SELECT 1 FROM announcements WHERE closed_at IS NOT NULL")) == number


def edits(api: BotApi, chat: int) -> list[Said]:
    return [said for said in api.said if said.method == "editMessageText" and said.chat == chat]


async def test_from_the_first_upload_to_the_outcomes(plant: Plant, api: BotApi) -> None:
    first = api.document(ANNA, "good.zip", export(1))
    for number, name in enumerate(("part.zip", "broken.zip", "again.zip"), 2):
        api.document(ANNA, name, export(1 if name == "again.zip" else number))
    api.document(ANNA, "big.zip", b"", size=30 << 20)
    async with plant.bot():
        await plant.received(4)
        plant.rows(BATCH)
        plant.rows("UPDATE batch_processing SET status = 'CONVERTING'")
        status = "Received 4 of 5 files.\nNow: 4 in convert.\n🚫 big.zip: not accepted: it is over 20 MB"
        await plant.until(lambda: api.texts_to(ANNA)[0].startswith(status))
        plant.rows(OUTCOME, "PARTIAL", 80, "page 3 is damaged", "part.zip")
        plant.rows(OUTCOME, "QUARANTINED", None, "it is encrypted", "broken.zip")
        plant.rows(STORED)
        plant.rows(COUNTED)
        plant.rows(DONE)
        await plant.until(lambda: closed(plant))
    shown, final = api.texts_to(ANNA)
    assert shown == "Done: 5 files. The message below names each with its outcome."
    # Downloads run at the same time: either of the two with one content is received before the other.
    assert final.count("80 known already) (received before)\n") == 1
    head, rows, _, *lines = final.replace(" (received before)", "").splitlines()
    assert head == "5 files: 2 stored, 1 stored in part, 1 quarantined, 1 not accepted."
    assert rows == "Messages: 1,100 new, 20 changed, 80 known already."
    assert lines[:4] == [
        "✅ good.zip: stored, 1,200 messages (1,100 new, 20 changed, 80 known already)",
        "⚠️ part.zip: stored in part, 80 messages: page 3 is damaged",
        "❌ broken.zip: quarantined: it is encrypted",
        "✅ again.zip: stored, 1,200 messages (1,100 new, 20 changed, 80 known already)",
    ]
    assert lines[4].startswith("🚫 big.zip: not accepted: it is over 20 MB")
    sent = [given for method, given in api.requests if method == "sendMessage"]
    assert {f'"message_id": {first}' in given["reply_parameters"] for given in sent} == {True}
    times = [said.at for said in edits(api, ANNA)]
    assert all(later - earlier >= 0.4 for earlier, later in itertools.pairwise(times))
    assert set(api.reactions.values()) == {"👍"}
    assert len(api.reactions) == 4


async def test_a_message_that_is_sent_while_the_ledger_is_read_is_sent_once(
    plant: Plant, api: BotApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = Context.fetch

    async def slow(context: Context, statement: str, /, **values: object) -> list[Any]:
        rows = await fetch(context, statement, **values)
        if statement == "live_announcements":  # its rows are old now: what is under way comes to its end
            serving = [job for job in asyncio.all_tasks() if job.get_coro().__name__ == "_serve"]
            await asyncio.gather(*serving)
        return rows

    monkeypatch.setattr(Context, "fetch", slow)
    api.document(ANNA, "a.zip", export())
    async with plant.bot():
        await plant.received(1)
        plant.rows(BATCH)
        plant.rows(STORED)
        plant.rows(DONE)
        await plant.until(lambda: closed(plant))
    assert len(api.texts_to(ANNA)) == 2


async def test_a_later_retry_edits_the_outcomes(plant: Plant, api: BotApi) -> None:
    api.document(ANNA, "a.zip", export())
    async with plant.bot():
        await plant.received(1)
        (batch,) = plant.rows(BATCH)
        plant.rows("UPDATE batch_processing SET status = 'FAILED', error_message = 'the disk is broken'")
        await plant.until(lambda: closed(plant))
        # The error of a batch is not shown: it may name files of other senders.
        failed = f"❌ a.zip: failed: an operator can retry {batch['batch_id']}"
        assert api.texts_to(ANNA)[-1].endswith(failed)
        plant.rows("UPDATE batch_processing SET status = 'EXTRACTING'")
        plant.rows(STORED)
        api.document(ANNA, "b.zip", export(2))
        await plant.received(2)
        await plant.until(lambda: len(api.texts_to(ANNA)) > 2)
        plant.rows(DONE)
        await plant.until(lambda: "✅ a.zip: stored, 1,200 messages" in "\n".join(api.texts_to(ANNA)))
        await plant.until(lambda: plant.rows("SELECT 1 FROM announcements WHERE is_settled"))
    assert not any("failed" in text for text in api.texts_to(ANNA))


async def test_many_files_make_several_messages(plant: Plant, api: BotApi) -> None:
    names = [f"{'ы' * 60} {number}.zip" for number in range(70)]
    for number, name in enumerate(names):
        api.document(ANNA, name, export(number))
    async with plant.bot():
        await plant.received(70)
        plant.rows(BATCH)
        plant.rows(STORED)
        plant.rows(DONE)
        await plant.until(lambda: closed(plant))
    shown, *finals = api.texts_to(ANNA)
    assert len(finals) > 1
    assert shown == f"Done: 70 files. The {len(finals)} messages below name each with its outcome."
    assert [finals[0].count(name) + "".join(finals[1:]).count(name) for name in names] == [1] * 70
    assert all(texts.units(final) <= 4096 for final in finals)


async def test_pauses_lost_responses_and_deleted_messages(plant: Plant, api: BotApi) -> None:
    api.fail("sendMessage", 429, "Too Many Requests: retry after 1", retry_after=1)
    api.fail("setMessageReaction", 429, "Too Many Requests: retry after 1", retry_after=1)
    api.document(ANNA, "a.zip", export())
    async with plant.bot():
        await plant.received(1)
        await plant.until(lambda: api.reactions)
        api.fail("editMessageText", 429, "Too Many Requests: retry after 1", retry_after=1)
        api.drop("editMessageText")  # it is edited; the next try hears "message is not modified"
        plant.rows(BATCH)
        plant.rows("UPDATE batch_processing SET status = 'EXTRACTING'")
        await plant.until(
            lambda: plant.rows("SELECT 1 FROM announcement_messages WHERE text LIKE '%%in extract%%'")
        )
        ((chat, message),) = list(api.texts)
        del api.texts[chat, message]
        plant.rows("UPDATE batch_processing SET status = 'STORING'")
        await plant.until(lambda: any("in store" in text for text in api.texts_to(ANNA)))
        api.drop("sendMessage")
        plant.rows(STORED)
        plant.rows(DONE)
        await plant.until(lambda: closed(plant))
    finals = [text for text in api.texts_to(ANNA) if "1 file: 1 stored" in text]
    assert len(finals) == 2  # the answer to the first was lost: at least once


async def test_one_chat_that_is_gone_does_not_keep_the_others_waiting(plant: Plant, api: BotApi) -> None:
    api.fail("sendMessage", 403, "Forbidden: bot was blocked by the user")
    api.document(ANNA, "a.zip", export())
    async with plant.bot():
        await plant.until(lambda: plant.rows("SELECT 1 FROM announcements WHERE given_up LIKE 'Forbidden%%'"))
        api.fail("setMessageReaction", 400, "Bad Request: REACTION_INVALID")
        api.document(BORIS, "b.zip", export(2))
        await plant.received(2)
        plant.rows(BATCH)
        plant.rows(STORED)
        plant.rows(DONE)
        await plant.until(lambda: any("b.zip: stored" in text for text in api.texts_to(BORIS)))
        await plant.until(lambda: not plant.rows("SELECT 1 FROM uploads WHERE reacted_at IS NULL"))
    assert api.texts_to(ANNA) == []


async def test_groups_are_per_sender_and_chat(plant: Plant, api: BotApi) -> None:
    team = -100500
    for user, chat in ((ANNA, 0), (ANNA, team), (BORIS, team), (ANNA, team)):
        api.document(user, "a.zip", export(), chat=chat)
    async with plant.bot():
        await plant.received(4)
    rows = plant.rows("SELECT chat_id, user_id FROM announcements ORDER BY announcement_id")
    found = [tuple(row.values()) for row in rows]
    assert found == [(ANNA, ANNA), (team, ANNA), (team, BORIS)]


async def test_outcomes_of_the_first_files_do_not_wait_for_the_last_file_of_the_day(
    plant: Plant, api: BotApi
) -> None:
    api.document(ANNA, "a.zip", export())
    async with plant.bot():
        await plant.received(1)
        plant.rows(BATCH)
        plant.rows("UPDATE announcements SET created_at = created_at - interval '1 hour'")
        api.document(ANNA, "b.zip", export(2))
        await plant.received(2)
        plant.rows(STORED)
        plant.rows(DONE)  # b.zip is in no batch yet
        await plant.until(lambda: any("✅ a.zip: stored" in text for text in api.texts_to(ANNA)))


async def test_held_batches_and_a_full_disk_are_named(plant: Plant, api: BotApi) -> None:
    api.document(ANNA, "a.zip", export())
    async with plant.bot():
        await plant.received(1)
        plant.rows(BATCH)
        plant.rows("UPDATE batch_processing SET held_at = now(), held_because = 'wait'")
        await plant.until(lambda: "1 held by an operator" in api.texts_to(ANNA)[0])


async def test_a_group_that_has_become_a_supergroup(plant: Plant, api: BotApi) -> None:
    old, new = -500, -100500
    api.document(ANNA, "a.zip", export(), chat=old)
    async with plant.bot():
        await plant.received(1)
        await plant.until(lambda: api.texts_to(old))
        moved = "Bad Request: group chat was upgraded to a supergroup chat"
        api.fail("sendMessage", 400, moved, migrate_to_chat_id=new)
        plant.rows(BATCH)
        plant.rows(STORED)
        plant.rows(DONE)
        await plant.until(lambda: closed(plant))
    assert "a.zip: stored" in api.texts_to(new)[0]
