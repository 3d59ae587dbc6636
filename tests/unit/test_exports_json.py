"""Telegram Desktop's JSON, quirk by quirk, and the real exports at hand."""

import json
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows.exports.columns import MESSAGES
from flows.exports.json_export import read_json
from flows.exports.reading import Reading
from flows.exports.scan import CHUNK

Read = Callable[[Any], tuple[list[dict[str, Any]], Reading]]
Json = dict[str, Any]

DOCUMENTS = ("entities", "media", "forward", "service", "reactions", "extra")
CLOCK = datetime(2023, 1, 2, 3, 4, 5)  # noqa: DTZ001 -- the exporter's wall clock has no zone
#: What the key of a chat ends in that begins with message 0 at CLOCK.
START = "~c983a3b2"
MESSAGE: Json = {"id": 1, "type": "message", "date": "2023-01-02T03:04:05", "from": "A", "from_id": "user1"}


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads an export given as bytes, text or members; returns rows and what was told."""

    def read(export: Any) -> tuple[list[dict[str, Any]], Reading]:
        if not isinstance(export, str | bytes):
            export = json.dumps(export, ensure_ascii=False, indent=1)
        path = tmp_path / "result.json"
        path.write_bytes(export.encode() if isinstance(export, str) else export)
        reading = Reading("000001-x.zip")
        batches = list(read_json(path, reading))
        assert all(batch.schema == MESSAGES for batch in batches)
        return [row for batch in batches for row in batch.to_pylist()], reading

    return read


def chat(*messages: Json, kind: str = "private_supergroup", **members: Any) -> Json:
    return {"name": "Chat", "type": kind, "id": 77, **members, "messages": list(messages)}


def message(**members: Any) -> Json:
    return {**MESSAGE, **members}


def layouts(export: Json) -> list[str]:
    """One export as Telegram Desktop and others lay it out."""
    spaced = json.dumps(export, indent=1).replace("[]", "[\n ]")
    return [
        json.dumps(export, indent=1),
        json.dumps(export, indent=4),
        json.dumps(export, indent="\t"),
        json.dumps(export, indent=1).replace("\n", "\r\n"),
        json.dumps(export, separators=(",", ":")),
        json.dumps(export),
        spaced,
        "\ufeff" + json.dumps(export, indent=1),
        json.dumps(export, separators=(",\n", ":\n")),
    ]


def document(text: str | None) -> Any:
    return None if text is None else json.loads(text)


BOLD = {"type": "bold", "text": "b"}
ODD_LIST = ["a", 5, {"type": "x"}, {"text": "b"}]
QUESTION = {"poll": {"question": ["q", {"type": "bold", "text": "!"}]}}
INVITATION = {
    "type": "service", "actor": None, "actor_id": "user3", "action": "invite_members", "members": [None, "B"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("members", "columns"),
    [
        ({"text": "p", "text_entities": [{"type": "plain", "text": "p"}]}, {"text": "p", "entities": None}),
        ({"text": ""}, {"text": "", "entities": None}),
        ({"text": None}, {"text": "", "entities": None}),
        # Before text_entities there was the mixed list alone.
        ({"text": ["a ", BOLD, ""]}, {"text": "a b", "entities": [{"type": "plain", "text": "a "}, BOLD]}),
        ({"text": "b", "text_entities": [BOLD]}, {"text": "b", "entities": [BOLD]}),
        ({"text": ODD_LIST}, {"text": "ab", "extra": {"text": ODD_LIST}}),
        ({"text": {"odd": 1}}, {"text": "", "extra": {"text": {"odd": 1}}}),
        ({"text_entities": "odd"}, {"entities": None, "extra": {"text_entities": "odd"}}),
        ({"date_unixtime": "1672628645"}, {"sent_at": datetime(2023, 1, 2, 3, 4, 5, tzinfo=UTC)}),
        ({}, {"sent_at": None, "sent_local": CLOCK}),
        ({"date": "2023-01-02T03:04:05+03:00"}, {"sent_at": None, "sent_local": CLOCK}),
        ({"date_unixtime": "soon"}, {"sent_at": None, "extra": {"date_unixtime": "soon"}}),
        ({"date_unixtime": "9" * 30}, {"sent_at": None, "extra": {"date_unixtime": "9" * 30}}),
        ({"date": "2023-02-30T25:00:00"}, {"sent_local": None, "extra": {"date": "2023-02-30T25:00:00"}}),
        ({"date": "0000-01-01T00:00:00"}, {"sent_local": None, "extra": {"date": "0000-01-01T00:00:00"}}),
        ({"date": 5}, {"sent_local": None, "extra": {"date": 5}}),
        ({"edited": "1970-01-01T03:00:00"}, {"edited_local": None, "extra": None}),
        ({"edited_unixtime": "0"}, {"edited_at": None, "extra": None}),
        ({"from": None}, {"sender_name": None, "sender_id": "user1"}),
        ({"from_id": 5}, {"sender_id": "user5"}),
        ({"from_id": 2**32 + 5}, {"sender_id": "user5"}),
        ({"from_id": 2**33 + 5}, {"sender_id": "channel5"}),
        ({"from_id": f"user{2**33 + 5}"}, {"sender_id": f"user{2**33 + 5}"}),  # today's ids are that great
        ({"from_id": "channel5"}, {"sender_id": "channel5"}),
        ({"from_id": "nobody"}, {"sender_id": None, "extra": {"from_id": "nobody"}}),
        ({"from_id": 10**30}, {"sender_id": None, "extra": {"from_id": 10**30}}),
        ({"from_id": None}, {"sender_id": None, "extra": None}),
        ({"type": "unheard_of"}, {"type": "unheard_of"}),
        ({"type": None}, {"type": "unknown"}),
        ({"reply_to_peer_id": "channel9"}, {"reply_to_peer_id": "channel9"}),
        ({"reply_to_message_id": 7}, {"reply_to_message_id": 7}),
        ({"reply_to_message_id": 2**70}, {"extra": {"reply_to_message_id": 2**70}}),
        ({"photo": "p.jpg", "width": 1}, {"media": {"photo": "p.jpg", "width": 1}, "extra": None}),
        ({"forwarded_from": None}, {"forward": {"forwarded_from": None}}),
        ({"via_bot": "@gif", "author": "me"}, {"extra": {"via_bot": "@gif", "author": "me"}}),
        ({"location_information": None}, {"media": {"location_information": None}}),
        (QUESTION, {"media": QUESTION}),
        ({"reactions": [{"type": "paid", "count": 3}]}, {"reactions": [{"type": "paid", "count": 3}]}),
        ({"reactions": []}, {"reactions": None, "extra": None}),
        ({"reactions": "odd"}, {"reactions": None, "extra": {"reactions": "odd"}}),
        (INVITATION, {"sender_id": "user3", "sender_name": None, "action": "invite_members"}),
        (INVITATION, {"service": {"members": [None, "B"], "from": "A", "from_id": "user1"}, "extra": None}),
        ({"new_in_2030": {"deep": [1]}, "ключ": 1}, {"extra": {"new_in_2030": {"deep": [1]}, "ключ": 1}}),
        ({"big": 10**40, "small": -(2**63)}, {"extra": {"big": 10**40, "small": -(2**63)}}),
        ({"text": "a\0b", "odd\0key": "\ud83d"}, {"text": "a\ufffdb", "extra": {"odd\ufffdkey": "\ufffd"}}),
        ({"from": "\ude00"}, {"sender_name": "\ufffd"}),
        ({"text": "😀"}, {"text": "😀"}),
    ],
)  # fmt: skip
def test_a_message(read: Read, members: Json, columns: Json) -> None:
    text = json.dumps(chat(message(id=1), message(id=2, **members)), indent=1)
    (_, row), reading = read(text)
    shown = {name: document(row[name]) if name in DOCUMENTS else row[name] for name in row}
    assert {name: shown[name] for name in columns} == columns
    assert reading.reason is None


@pytest.mark.parametrize(
    ("written", "extra"),
    [
        (r'"data": "1=412\x012=97\x0A\\x01"', {"data": "1=412\x012=97\n\\x01"}),  # tdesktop #27571
        ('"data": "raw\x01control"', {"data": "raw\x01control"}),
        (r'"data": "nul \x00 \u0000"', {"data": "nul \ufffd \ufffd"}),
        ('"a": NaN, "b": -Infinity, "c": 1', {"a": None, "b": None, "c": 1}),
        ('"a": 1e999999, "b": 1e10', {"a": "1e999999", "b": 1e10}),
        (f'"a": {"7" * 20_000}', {"a": "7" * 20_000}),
        ('"a": 1, "a": 2', {"a": 2}),
        (
            '"e": [{\n     "type": "custom_emoji",\n     "document_id": video_files/sticker (2).webm\n    },'
            ' {\n     "document_id": stickers/it\'s.webp,\n     "text": "x"}]',  # tdesktop #24961
            {"e": [{"type": "custom_emoji", "document_id": "video_files/sticker (2).webm"},
                   {"document_id": "stickers/it's.webp", "text": "x"}]},
        ),
        ('"document_id": "5", "d": {"document_id": 5}', {"document_id": "5", "d": {"document_id": 5}}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("minified", [False, True])
def test_json_that_is_not_quite_json_is_mended(read: Read, written: str, extra: Json, minified: bool) -> None:
    export = json.dumps(chat(message(id=1), message(id=2, mark="HERE"), message(id=3)), indent=1)
    if minified:
        export = json.dumps(chat(message(id=1), message(id=2, mark="HERE"), message(id=3)))
    rows, reading = read(export.replace('"mark": "HERE"', written))
    assert [row["message_id"] for row in rows] == [1, 2, 3]
    assert document(rows[1]["extra"]) == extra
    assert reading.reason is None


def test_bytes_that_are_not_utf8_are_replaced(read: Read) -> None:
    export = json.dumps(chat(message(text="HERE")), indent=1).encode()
    (row,), reading = read(export.replace(b"HERE", b"a\xff\xed\xa0\x80b"))
    assert row["text"].strip("ab") == "\ufffd" * len(row["text"].strip("ab"))
    assert (row["text"][0], row["text"][-1], reading.reason) == ("a", "b", None)


def test_a_message_past_mending_costs_only_itself(read: Read) -> None:
    export = json.dumps(chat(message(id=1), message(id=2, text="HERE"), message(id=3)), indent=1)
    rows, reading = read(export.replace("HERE", '5" tall'))
    assert [row["message_id"] for row in rows] == [1, 3]
    assert reading.reason == "1 message could not be read and left out"


@pytest.mark.parametrize("odd", ["x", None, 1.5, 2**64, True])
def test_a_message_without_a_usable_id_is_left_out_and_counted(read: Read, odd: Any) -> None:
    rows, reading = read(chat(message(id=odd), message(id=5), {"type": "message"}))
    assert [row["message_id"] for row in rows] == [5]
    assert reading.reason == "2 messages without a usable id left out"
    assert reading.chats[0].messages == reading.messages == 1


def test_what_is_no_message_is_left_out_and_counted(read: Read) -> None:
    for export in layouts(
        chat(message(id=1)) | {"messages": [message(id=1), None, message(id=2), 7, "x", []]}
    ):
        rows, reading = read(export)
        assert [row["message_id"] for row in rows] == [1, 2], export
        assert reading.reason == "4 messages could not be read and left out"


def test_unsupported_messages_have_only_an_id(read: Read) -> None:
    (row,), _ = read(chat({"id": 9, "type": "unsupported"}))
    assert (row["message_id"], row["type"], row["text"]) == (9, "unsupported", "")
    assert all(row[name] is None for name in ("sent_at", "sent_local", "sender_id", "extra"))


@pytest.mark.parametrize("size", [0, 1, 2, 300])
def test_every_layout_reads_alike(read: Read, size: int) -> None:
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


def test_attributes_behind_the_messages_count_too(read: Read) -> None:
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
    read: Read, kind: str, chat_id: int | None, senders: list[Any], key: str, account: str | None
) -> None:
    export = chat(*[message(id=n, from_id=sender) for n, sender in enumerate(senders)], kind=kind, id=chat_id)
    rows, reading = read(export)
    assert {row["chat_key"] for row in rows} == ({key} if senders else set())
    assert (reading.chats[0].chat_key, reading.chats[0].account) == (key, account)


def test_where_an_export_begins_is_part_of_a_key_that_names_no_account(read: Read) -> None:
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


def test_a_block_past_mending_does_not_hide_where_a_chat_begins(read: Read) -> None:
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
def test_a_whole_account_names_its_owner(read: Read, kind: str, key: str) -> None:
    person = {"user_id": 5123456789, "first_name": "O"}
    _, reading = read({"personal_information": person, "chats": {"list": [chat(message(), kind=kind)]}})
    assert (reading.chats[0].chat_key, reading.chats[0].account) == (key, "user5123456789")


@pytest.mark.parametrize(
    ("members", "extra"),
    [({}, None), ({"id": 2**70}, {"id": 2**70}), ({"type": 5, "name": None}, {"type": 5}),
     ({"new": "\0"}, {"new": "\ufffd"})],
)  # fmt: skip
def test_what_a_chat_says_besides_is_kept(read: Read, members: Json, extra: Json | None) -> None:
    _, reading = read(json.dumps(chat(message(), **members)))
    assert document(reading.chats[0].extra) == extra


def test_of_many_problems_a_few_are_told() -> None:
    assert Reading("x", problems=["bad"] * 9).reason == "bad; bad; bad; bad; bad; and 4 problems more"


def test_a_whole_account_without_chats_is_an_export(read: Read) -> None:
    assert read({"about": "x", "personal_information": {"user_id": 9}}) == ([], Reading("000001-x.zip"))


NO_EXPORTS = [
    b"", b" \n", b"null", b"[1, 2]", b"{}", b'{"name": "package", "version": 1}', b'"x"', b"\x89PNG\r\n",
    b"{" * 5000, b'{"messages": 5}', b'{"chats": 5', b"\xff\xfe{\x00", b'{"a": {"b": ', b"{1: 2}",
    b'{"messages": [{"id": 1',
]  # fmt: skip


@pytest.mark.parametrize("content", NO_EXPORTS)
def test_what_is_no_export_is_refused_with_a_reason(read: Read, content: bytes) -> None:
    rows, reading = read(content)
    assert rows == []
    assert reading.reason


@pytest.mark.parametrize("indent", [1, None])
def test_an_export_cut_off_anywhere_keeps_every_whole_message(read: Read, indent: int | None) -> None:
    messages = [message(id=n, text=["é ", {"type": "bold", "text": "}]"}], last=n) for n in range(4)]
    whole = {"about": "x", "chats": {"list": [chat(*messages[:2], id=1), chat(*messages[2:], id=2)]}}
    content = json.dumps(whole, indent=indent, ensure_ascii=False).encode()
    ends = [content.index(b"}", content.index(b'"last": %d' % n)) + 1 for n in range(4)]
    for cut in range(content.index(b'"chats"'), len(content)):
        rows, reading = read(content[:cut])
        assert len(rows) == sum(end <= cut for end in ends), content[:cut][-50:]
        assert "cut off in the middle" in (reading.reason or "")


def test_duplicate_ids_are_kept_for_store_to_sort_out(read: Read) -> None:
    rows, reading = read(chat(message(id=1, text="a"), message(id=1, text="b")))
    assert [row["text"] for row in rows] == ["a", "b"]
    assert reading.reason is None
    assert rows[0]["revision"] != rows[1]["revision"]


def test_the_greatest_revision_is_the_newest_version(read: Read) -> None:
    sent = {"date": "2023-01-02T03:04:05", "date_unixtime": "1672628645"}
    versions = [
        message(),  # no offset known: the earliest instant its clock can mean
        message(**sent),
        message(**sent, edited="2023-01-02T03:05:05", edited_unixtime="1672628705"),
        message(**sent, edited="2023-01-02T03:06:05", edited_unixtime="1672628765", new=1),
    ]
    revisions = [read(chat(version))[0][0]["revision"] for version in versions]
    assert revisions == sorted(revisions)
    assert len({len(revision) for revision in revisions}) == 1
    assert revisions[1].startswith("001672628645.2.")
    again = read(json.dumps(chat(versions[1]), indent=7))[0][0]["revision"]
    assert again == revisions[1]  # the layout is not the content


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
