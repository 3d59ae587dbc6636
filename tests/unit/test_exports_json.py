"""Reading Telegram Desktop's JSON: layouts, chats and their keys, and real exports."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from json_chats import DOCUMENTS, START, Json, Read, chat, document, layouts, message, reader

from flows.exports.json_export import read_json
from flows.exports.reading import Reading
from flows.exports.scan import CHUNK


@pytest.fixture
def read(tmp_path: Path) -> Read:
    return reader(tmp_path)


@pytest.mark.parametrize("size", [0, 1, 2, 300])
def test_every_layout_has_the_same_result(read: Read, size: int) -> None:
    nested = [{"id": 5, "messages": [{"id": 6}]}]
    messages = [
        message(id=n, text=["{[", {"type": "bold", "text": '"}],\\'}], odd=nested) for n in range(size)
    ]
    account = {
        "about": "x",
        "personal_information": {"user_id": 9},
        "contacts": {"about": "", "list": [{"first_name": "}]"}]},
        "chats": {"about": "", "list": [chat(*messages, id=1), chat(id=2), chat(*messages, id=3)]},
        "left_chats": {"list": [chat(*messages, id=4)]},
    }
    for export, ids in ((chat(*messages, id=1), [1]), (account, [1, 2, 3, 4])):
        expected = [(f"channel{i}", n) for i in ids if i != 2 for n in range(size)]
        for text in layouts(export):
            rows, reading = read(text)
            assert [(row["chat_key"], row["message_id"]) for row in rows] == expected, text[:200]
            assert [found.chat_id for found in reading.chats] == ids
            assert reading.reason is None
            assert all(row["text"] == '{["}],\\' for row in rows)


def test_members_after_the_messages_are_used(read: Read) -> None:
    export = {"messages": [message()], "extra thing": 1, "id": 5, "type": "public_channel", "name": "Late"}
    for text in layouts(export):
        (row,), reading = read(text)
        assert row["chat_key"] == "channel5"
        assert (reading.chats[0].name, reading.chats[0].extra) == ("Late", '{"extra thing":1}')


@pytest.mark.parametrize(
    ("kind", "chat_id", "senders", "key", "account"),
    [
        ("public_channel", 3204528972, ["channel3204528972"], "channel3204528972", None),
        ("private_supergroup", 5, ["user1", "user2"], "channel5", None),
        ("private_channel", 2**33 + 5, [2**33 + 5], "channel5", None),
        ("private_group", 55, ["user1"], f"chat55{START}", None),
        ("private_group", 2**33 + 55, [2**32 + 1], f"chat55{START}", None),
        ("private_group", 55, [], "chat55", None),
        ("personal_chat", 7, ["user7", "user9", "user7"], "user7@user9", "user9"),
        ("personal_chat", 2**32 + 7, [2**32 + 9], "user7@user9", "user9"),
        ("personal_chat", 2**32 + 7, [9, 7], "user7@user9", "user9"),  # 2018-12 to 2020-10
        ("personal_chat", str(2**32 + 7), ["9", "7"], "user7@user9", "user9"),  # numbers in quotes
        ("saved_messages", 2**32 + 9, [9], "user9@user9", "user9"),
        # The Bot API and libraries mark groups and channels by negative numbers.
        ("channel", -(10**12) - 5, [-(10**12) - 5], "channel5", None),
        (None, "-1000000000005", [], "channel5", None),
        ("group", -55, ["9"], f"chat55{START}", None),
        (None, -55, [], "chat55", None),
        ("private_group", 2**33 + 55, [9], f"chat55{START}", None),
        ("personal_chat", 2**32 + 7, ["user9"], f"user{2**32 + 7}@user9", "user9"),
        ("personal_chat", 7, ["user7"], f"user7{START}", None),
        ("personal_chat", 7, ["user8", "user9"], f"user7{START}", None),
        ("bot_chat", 7, ["user9"], "user7@user9", "user9"),
        ("saved_messages", 9, ["user1"], "user9@user9", "user9"),
        ("replies", 1271266957, ["user1"], f"replies{START}", None),
        ("verification_codes", 489000, ["user1"], f"verification_codes{START}", None),
        ("private_group", None, ["user1"], f"html-460b3a7da007b7af{START}", None),
    ],
)
def test_chat_keys(
    read: Read, kind: str | None, chat_id: int | str | None, senders: list[Any], key: str, account: str | None
) -> None:
    export = chat(*[message(id=n, from_id=sender) for n, sender in enumerate(senders)], kind=kind, id=chat_id)
    rows, reading = read(export)
    assert {row["chat_key"] for row in rows} == ({key} if senders else set())
    assert (reading.chats[0].chat_key, reading.chats[0].account) == (key, account)


def test_an_export_of_one_topic_is_recognised(read: Read) -> None:
    """Telegram Desktop names it after the topic; the chat has another name."""
    root = message(id=7, type="service", action="topic_created", title="Chat")
    found = [
        read(chat(*some))[1].chats[0].extra for some in ([root], [message(), root], [root | {"title": "T"}])
    ]
    assert found == ['{"topic":7}', None, None]


@pytest.mark.parametrize("later", ["date_unixtime", "text_entities"])
def test_numbers_beside_members_since_2022_are_ids_without_an_offset(read: Read, later: str) -> None:
    """Other programs write them; today's ids of users are as great as the old ones with their offset."""
    value = {"date_unixtime": "1672628645", "text_entities": []}[later]
    ids = [2**32 + 9, str(2**32 + 7), 2**33 + 5, -(10**12) - 5]
    export = chat(
        *(message(from_id=sender, **{later: value}) for sender in ids), kind="personal_chat", id=2**32 + 7
    )
    rows, reading = read(export)
    expected = [f"user{2**32 + 9}", f"user{2**32 + 7}", f"user{2**33 + 5}", "channel5"]
    assert [row["sender_id"] for row in rows] == expected
    assert reading.chats[0].chat_id == 2**32 + 7


def test_a_key_without_an_account_depends_on_the_first_message(read: Read) -> None:
    def key(*messages: Json) -> str:
        return read(chat(*messages, kind="private_group"))[1].chats[0].chat_key

    first, unsupported = message(id=5), {"id": 1, "type": "unsupported"}
    zoned = message(id=5, date_unixtime="1672628645")
    assert key(first) == key(first | {"text": "edited"}, message(id=6)) == key(unsupported, first)
    assert key(zoned) == key(zoned | {"date": "2023-01-02T06:04:05"}), "exported again in another zone"
    keys = [
        key(first),
        key(message(id=6)),
        key(message(id=5, date="2023-01-02T03:04:06")),
        key(zoned),
        key(message(id=5, date_unixtime="1672628646")),
        key(unsupported),
        key(unsupported | {"id": 2}),
        key(),
    ]
    assert len(set(keys)) == len(keys)


def test_an_unreadable_block_does_not_change_the_key(read: Read) -> None:
    lost = [message(text="x" * (CHUNK // 8) + "HERE")] * 20
    texts = [json.dumps(chat(*some, message(id=5), kind="private_group"), indent=1) for some in (lost, [])]
    found = [read(text.replace("HERE", '5" tall')) for text in texts]
    assert [[row["message_id"] for row in rows] for rows, _ in found] == [[5], [5]]
    assert len({reading.chats[0].chat_key for _, reading in found}) == 1


@pytest.mark.parametrize(
    ("kind", "key"),
    [("personal_chat", "user77@user5123456789"), ("private_group", "chat77@user5123456789"),
     ("replies", "replies@user5123456789"), ("public_channel", "channel77")],
)  # fmt: skip
def test_a_whole_account_identifies_its_owner(read: Read, kind: str, key: str) -> None:
    person = {"user_id": 5123456789, "first_name": "O"}
    _, reading = read({"personal_information": person, "chats": {"list": [chat(message(), kind=kind)]}})
    assert (reading.chats[0].chat_key, reading.chats[0].account) == (key, "user5123456789")


@pytest.mark.parametrize(
    ("members", "extra"),
    [({}, None), ({"id": 2**70}, {"id": 2**70}), ({"type": 5, "name": None}, {"type": 5}),
     ({"new": "\0"}, {"new": "\ufffd"})],
)  # fmt: skip
def test_other_members_of_a_chat_are_kept(read: Read, members: Json, extra: Json | None) -> None:
    _, reading = read(json.dumps(chat(message(), **members)))
    assert document(reading.chats[0].extra) == extra


def test_of_many_problems_a_few_are_listed() -> None:
    assert Reading("x", problems=["bad"] * 9).reason == "bad; bad; bad; bad; bad; and 4 more problems"


def test_a_whole_account_without_chats_is_an_export(read: Read) -> None:
    assert read({"about": "x", "personal_information": {"user_id": 9}}) == ([], Reading("000001-x.zip"))


def test_a_chat_without_senders_has_the_form_of_ids_of_its_account(read: Read) -> None:
    old, silent = message(from_id=9), {"id": 5, "type": "message", "text": "x"}
    chats = [chat(old, kind="personal_chat", id=2**32 + 7), chat(silent, kind="personal_chat", id=2**32 + 8)]
    account = {"personal_information": {"user_id": 9}, "chats": {"list": chats}}
    assert [found.chat_key for found in read(account)[1].chats] == ["user7@user9", "user8@user9"]


@pytest.mark.parametrize("section", ["chats", "left_chats"])
def test_chats_that_are_not_read_are_named(read: Read, section: str) -> None:
    good = chat(message(), id=1)
    for odd, reason in (
        (
            {"list": [good, {"name": "x"}, 5, None]},
            f"not read: 2 of its {section}, without a list of messages",
        ),
        ({"list": {"1": good}}, f"not read: its {section}, which are not a list"),
        ({"1": good, "2": good}, f"not read: its {section}, which are not a list"),
        ("many", f"not read: its {section}, which are not a list"),
        (None, None),
    ):
        assert read({section: odd})[1].reason == reason


def test_a_section_of_an_account_that_no_known_release_has_is_named(read: Read) -> None:
    sections = {"archived": {"list": [chat(message(), id=2)]}, "music": [1]}
    rows, reading = read({"chats": {"list": [chat(message(), id=1)]}, **sections})
    assert (len(rows), reading.reason) == (1, "not read: its archived, which have messages")
    rows, reading = read(chat(message(), topics=[{"title": "T", "messages": [message(id=2)]}]))
    assert (len(rows), reading.reason) == (1, "not read: its topics, which have messages")
    assert document(reading.chats[0].extra)["topics"][0]["title"] == "T", "they are kept with the chat"


def test_the_section_of_the_chats_alone_is_an_export(read: Read) -> None:
    """As other programs cut it out; the section of the contacts is none."""
    rows, reading = read({"about": "…", "list": [chat(message(), id=1), chat(message(), id=2)]})
    assert ([row["chat_key"] for row in rows], reading.reason) == (["channel1", "channel2"], None)
    rows, reading = read({"about": "…", "list": [{"user_id": 5}]})
    assert (rows, "neither messages nor chats" in (reading.reason or "")) == ([], True)


def test_a_long_name_is_cut_and_kept_whole_beside_it(read: Read) -> None:
    _, reading = read(chat(message(), name="é" * 6000, new=1))
    (row,) = reading.chat_rows().to_pylist()
    assert (row["name"], document(row["extra"])) == ("é" * 500, {"name": "é" * 6000, "new": 1})


def test_memory_does_not_grow_with_the_file(read: Read, tmp_path: Path) -> None:
    peaks = []
    for count in (10_000, 40_000):
        text = json.dumps(chat(*[message(id=n, text="x" * 1000) for n in range(count)]), indent=1)
        path = tmp_path / f"{count}.json"
        path.write_text(text)
        del text
        tracemalloc.start()
        rows = sum(batch.num_rows for batch in read_json(path, Reading("x")))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert rows == count
    assert peaks[1] < 1.2 * peaks[0] < 40 * CHUNK


def test_real_exports(samples: Path) -> None:
    found = {}
    for path in sorted(samples.glob("*/*.json")):
        reading = Reading(path.name)
        rows = [row for batch in read_json(path, reading) for row in batch.to_pylist()]
        assert len(rows) == reading.messages
        for row in rows:
            for name in DOCUMENTS:
                assert row[name] is None or json.loads(row[name])
        found[f"{path.parent.name}/{path.name}"] = (len(rows), reading.reason)
    odd = {name: outcome for name, outcome in found.items() if outcome[1]}
    assert odd == {
        "single_innerdvations/error.json": (2, "commas missing in its JSON: 1"),
        "single_innerdvations/error-unexpected.json": (15, "1 message without a usable id left out"),
    }
    assert found["public_channel_twin/result.json"] == (213, None)
    assert found["fixtures_tkonverter/result.json"] == (87, None)
    assert found["single_innerdvations/personal.json"] == (0, None)
