"""Messages in Telegram Desktop's JSON: columns, repairs, ids, revisions."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from json_chats import DOCUMENTS, Json, Read, chat, document, layouts, message, reader


@pytest.fixture
def read(tmp_path: Path) -> Read:
    return reader(tmp_path)


CLOCK = datetime(2023, 1, 2, 3, 4, 5)  # noqa: DTZ001 -- the exporter's wall clock has no zone

EARLIER = datetime(2023, 1, 2, 0, 4, 5, tzinfo=UTC)

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
        # Releases before text_entities wrote only the mixed list.
        ({"text": ["a ", BOLD, ""]}, {"text": "a b", "entities": [{"type": "plain", "text": "a "}, BOLD]}),
        ({"text": "b", "text_entities": [BOLD]}, {"text": "b", "entities": [BOLD]}),
        ({"text": ODD_LIST}, {"text": "a5b", "extra": {"text": ODD_LIST}}),
        ({"text": ["a", BOLD | {"text": ["b", BOLD]}]}, {"text": "abb"}),
        ({"text": BOLD}, {"text": "b", "extra": {"text": BOLD}}),
        ({"text": 5}, {"text": "5", "extra": {"text": 5}}),
        # Other programs leave out, or write empty, what text_entities has as well.
        ({"text_entities": [{"type": "plain", "text": "p"}]}, {"text": "p", "entities": None}),
        ({"text": "", "text_entities": [BOLD, BOLD]}, {"text": "bb", "entities": [BOLD, BOLD]}),
        ({"text": {"odd": 1}}, {"text": "", "extra": {"text": {"odd": 1}}}),
        ({"text_entities": "odd"}, {"entities": None, "extra": {"text_entities": "odd"}}),
        ({"date_unixtime": "1672628645"}, {"sent_at": datetime(2023, 1, 2, 3, 4, 5, tzinfo=UTC)}),
        ({}, {"sent_at": None, "sent_local": CLOCK}),
        # Other programs write an offset, or Unix time in seconds or milliseconds, as a number or in quotes.
        ({"date": "2023-01-02T03:04:05+03:00"}, {"sent_at": EARLIER, "sent_local": CLOCK}),
        ({"date": "2023-01-02T00:04:05Z"}, {"sent_at": EARLIER, "sent_local": EARLIER.replace(tzinfo=None)}),
        ({"date": 1672617845}, {"sent_at": EARLIER, "sent_local": None, "extra": None}),
        ({"date": 1672617845000}, {"sent_at": EARLIER, "sent_local": None}),
        ({"date": 1672617845.0}, {"sent_at": EARLIER, "sent_local": None}),
        ({"date": "1672617845"}, {"sent_at": EARLIER, "sent_local": None}),
        ({"date": 1672617845, "date_unixtime": "1672617846"}, {"sent_at": EARLIER.replace(second=6)}),
        ({"date": None, "date_unixtime": 1672617845000}, {"sent_at": EARLIER}),
        ({"edited": "2023-01-02T03:04:05+03:00"}, {"edited_at": EARLIER, "edited_local": CLOCK}),
        ({"edited": 1672617845}, {"edited_at": EARLIER, "edited_local": None}),
        ({"date": "0001-01-01T00:00:00+14:00"}, {"extra": {"date": "0001-01-01T00:00:00+14:00"}}),
        ({"date_unixtime": "soon"}, {"sent_at": None, "extra": {"date_unixtime": "soon"}}),
        ({"date_unixtime": "9" * 30}, {"sent_at": None, "extra": {"date_unixtime": "9" * 30}}),
        ({"date": "2023-02-30T25:00:00"}, {"sent_local": None, "extra": {"date": "2023-02-30T25:00:00"}}),
        ({"date": "0000-01-01T00:00:00"}, {"sent_local": None, "extra": {"date": "0000-01-01T00:00:00"}}),
        ({"date": 5}, {"sent_at": None, "sent_local": None, "extra": {"date": 5}}),
        ({"date": 1e300}, {"sent_at": None, "extra": {"date": 1e300}}),
        ({"edited": "1970-01-01T03:00:00"}, {"edited_local": None, "extra": None}),
        ({"edited_unixtime": "0"}, {"edited_at": None, "extra": None}),
        ({"from": None}, {"sender_name": None, "sender_id": "user1"}),
        ({"from_id": 5}, {"sender_id": "user5"}),
        ({"from_id": 2**32 + 5}, {"sender_id": "user5"}),
        ({"from_id": 2**33 + 5}, {"sender_id": "channel5"}),
        ({"from_id": f"user{2**33 + 5}"}, {"sender_id": f"user{2**33 + 5}"}),  # recent ids are that large
        ({"from_id": "channel5"}, {"sender_id": "channel5"}),
        ({"from_id": -1000000000005}, {"sender_id": "channel5", "extra": None}),  # as in the Bot API
        ({"from_id": "-5"}, {"sender_id": "chat5", "extra": None}),
        ({"from_id": -(2**63)}, {"sender_id": None, "extra": {"from_id": -(2**63)}}),
        ({"from_id": "5"}, {"sender_id": "user5"}),  # ids in quotes, as JavaScript programs write them
        ({"id": "2", "reply_to_message_id": "1"}, {"message_id": 2, "reply_to_message_id": 1, "extra": None}),
        ({"id": 2.0, "reply_to_message_id": "-1.0"}, {"message_id": 2, "reply_to_message_id": -1}),  # pandas
        ({"reply_to_message_id": 1.5}, {"reply_to_message_id": None, "extra": {"reply_to_message_id": 1.5}}),
        ({"reply_to_message_id": "x"}, {"reply_to_message_id": None, "extra": {"reply_to_message_id": "x"}}),
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
    text = json.dumps(chat(message(id=1), message(**{"id": 2, **members})), indent=1)
    (_, row), reading = read(text)
    shown = {name: document(row[name]) if name in DOCUMENTS else row[name] for name in row}
    assert {name: shown[name] for name in columns} == columns
    assert reading.reason is None


@pytest.mark.parametrize(
    ("written", "extra"),
    [
        (r'"data": "1=412\x012=97\x0A\\x01"', {"data": "1=412\x012=97\n\\x01"}),  # tdesktop #27571
        ('"data": "raw\x01control"', {"data": "raw\x01control"}),
        (r'"data": "C:\Users\q \u12 \\q"', {"data": r"C:\Users\q \u12 \q"}),  # written by hand
        (r'"data": "nul \x00 \u0000"', {"data": "nul \ufffd \ufffd"}),
        ('"a": NaN, "b": -Infinity, "c": 1', {"a": None, "b": None, "c": 1}),
        ('"a": 1e999999, "b": 1e10', {"a": "1e999999", "b": 1e10}),
        (f'"a": {"7" * 20_000}', {"a": "7" * 20_000}),
        ('"a": 1, "a": 2', {"a": 2, "repeated_keys": {"a": [1]}}),
        (
            '"a": 1,\n   "a": null,\n   "a": [2],\n   "a": 3,\n   "b": 1,\n   "b": 1',
            {"a": 3, "b": 1, "repeated_keys": {"a": [1, [2]]}},
        ),
        ('"x": NaN, "a": {"b": "x", "b": "y"}', {"x": None, "a": {"b": "y", "repeated_keys": {"b": ["x"]}}}),
        ('"ключ": 1,\n   "\\u043a\u043b\u044e\u0447": 2', {"ключ": 2, "repeated_keys": {"ключ": [1]}}),
        ('"a": [1, 2,], "b": {"c": ",]",},', {"a": [1, 2], "b": {"c": ",]"}}),
        (
            '"e": [{\n     "type": "custom_emoji",\n     "document_id": video_files/sticker (2).webm\n    },'
            ' {\n     "document_id": stickers/it\'s.webp,\n     "text": "x"}]',  # tdesktop #24961
            {"e": [{"type": "custom_emoji", "document_id": "video_files/sticker (2).webm"},
                   {"document_id": "stickers/it's.webp", "text": "x"}]},
        ),
        (
            r'"a": {"latitude": 55,755831, "longitude": -37,617673}, "b": "\"latitude\": 5,123456"',  # 2018
            {"a": {"latitude": 55.755831, "longitude": -37.617673}, "b": '"latitude": 5,123456'},
        ),
        ('"document_id": "5", "d": {"document_id": 5}', {"document_id": "5", "d": {"document_id": 5}}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("minified", [False, True])
def test_known_defects_of_json_are_repaired(read: Read, written: str, extra: Json, minified: bool) -> None:
    export = json.dumps(chat(message(id=1), message(id=2, mark="HERE"), message(id=3)), indent=1)
    if minified:
        export = json.dumps(chat(message(id=1), message(id=2, mark="HERE"), message(id=3)))
    rows, reading = read(export.replace('"mark": "HERE"', written))
    assert [row["message_id"] for row in rows] == [1, 2, 3]
    assert document(rows[1]["extra"]) == extra
    assert reading.reason is None


GIFT = {
    "type": "service",
    "action": "send_star_gift",
    "text": "for the garden",
    "SECOND": "",
    "text_entities": [],
}


@pytest.mark.parametrize("second", ["", None, []])
def test_of_two_texts_the_one_that_is_not_empty_counts(read: Read, second: Any) -> None:
    gift = message(id=2, **GIFT | {"SECOND": second})
    for text in layouts(chat(message(id=1), gift, message(id=3))):
        rows, reading = read(text.replace("SECOND", "text"))
        assert [(row["text"], row["extra"]) for row in rows] == [
            ("", None),
            ("for the garden", None),
            ("", None),
        ]
        assert reading.reason is None


def test_of_two_different_texts_both_are_kept(read: Read) -> None:
    for text in layouts(chat(message(text="Open the form", SECOND="thanks"), FIRST="Old", name="New")):
        (row,), reading = read(text.replace("SECOND", "text").replace("FIRST", "name"))
        assert (row["text"], document(row["extra"])) == (
            "thanks",
            {"repeated_keys": {"text": ["Open the form"]}},
        )
        assert (reading.chats[0].name, document(reading.chats[0].extra)) == (
            "Old",
            {"repeated_keys": {"name": ["New"]}},
        )


def test_a_message_beside_one_with_repeated_keys_is_not_changed(read: Read) -> None:
    odd = message(id=1, value=1.50, path="a/b")
    alone, beside = (
        read(json.dumps(chat(odd, *more), indent=1).replace("/", "\\/").replace("SECOND", "text"))[0][0]
        for more in ([], [message(id=2, **GIFT)])
    )
    assert alone == beside


def test_bytes_that_are_not_utf8_are_replaced_and_reported(read: Read) -> None:
    export = json.dumps(chat(message(text="HERE")), indent=1).encode()
    (row,), reading = read(export.replace(b"HERE", b"a\xff\xed\xa0\x80b"))
    assert row["text"].strip("ab") == "\ufffd" * len(row["text"].strip("ab"))
    assert (row["text"][0], row["text"][-1]) == ("a", "b")
    assert reading.reason == "characters were replaced in 1 text that is not UTF-8: export it again"


def test_an_unreadable_message_does_not_affect_others(read: Read) -> None:
    export = json.dumps(chat(message(id=1), message(id=2, text="HERE"), message(id=3)), indent=1)
    rows, reading = read(export.replace("HERE", '5" tall'))
    assert [row["message_id"] for row in rows] == [1, 3]
    assert reading.reason == "1 unreadable message left out"


@pytest.mark.parametrize("odd", ["x", None, 1.5, 2**64, True])
def test_a_message_without_a_usable_id_is_left_out_and_counted(read: Read, odd: Any) -> None:
    rows, reading = read(chat(message(id=odd), message(id=5), {"type": "message"}))
    assert [row["message_id"] for row in rows] == [5]
    assert reading.reason == "2 messages without a usable id left out"
    assert reading.chats[0].messages == reading.messages == 1


def test_elements_that_are_not_messages_are_left_out_and_counted(read: Read) -> None:
    for export in layouts(
        chat(message(id=1)) | {"messages": [message(id=1), None, message(id=2), 7, "x", []]}
    ):
        rows, reading = read(export)
        assert [row["message_id"] for row in rows] == [1, 2], export
        assert reading.reason == "4 unreadable messages left out"


@pytest.mark.parametrize("end", ["x" * 90, '"id": 9,', '"type"'], ids=["text", "id", "type"])
def test_messages_around_a_hole_are_left_out_and_counted(read: Read, end: str) -> None:
    """Zeros from the text of message 6 (a failing disk): if they end in another text, that is valid JSON."""
    export = json.dumps(chat(*(message(id=number, text="x" * 90) for number in range(1, 21))), indent=1)
    start = export.index("x" * 90, export.index('"id": 6,'))
    hole = export.index(end, export.index('"id": 9,')) + len(end) // 2 - start
    for zeros in (hole, hole + 7):
        rows, reading = read(f"{export[:start]}{chr(0) * zeros}{export[start + zeros :]}")
        assert [row["message_id"] for row in rows] == [*range(1, 6), *range(10, 21)]
        assert reading.reason in ("1 unreadable message left out", "2 unreadable messages left out")


def test_zeros_between_messages_cost_none(read: Read) -> None:
    export = json.dumps(chat(*(message(id=number) for number in range(4))), indent=1)
    rows, reading = read(export.replace("},\n", "},\n" + "\0" * 70, 2))
    assert ([row["message_id"] for row in rows], reading.reason) == ([0, 1, 2, 3], None)


def test_unsupported_messages_have_only_an_id(read: Read) -> None:
    (row,), _ = read(chat({"id": 9, "type": "unsupported"}))
    assert (row["message_id"], row["type"], row["text"]) == (9, "unsupported", "")
    assert all(row[name] is None for name in ("sent_at", "sent_local", "sender_id", "extra"))


def test_duplicate_ids_are_kept_for_store_to_resolve(read: Read) -> None:
    rows, reading = read(chat(message(id=1, text="a"), message(id=1, text="b")))
    assert [row["text"] for row in rows] == ["a", "b"]
    assert reading.reason is None
    assert rows[0]["revision"] != rows[1]["revision"]


def test_the_greatest_revision_is_the_newest_version(read: Read) -> None:
    sent = {"date": "2023-01-02T03:04:05", "date_unixtime": "1672628645"}
    versions = [
        message(),  # without an offset: the earliest instant its clock can mean
        message(**sent),
        message(**sent, edited="2023-01-02T03:05:05", edited_unixtime="1672628705"),
        message(**sent, edited="2023-01-02T03:06:05", edited_unixtime="1672628765", new=1),
    ]
    revisions = [read(chat(version))[0][0]["revision"] for version in versions]
    assert revisions == sorted(revisions)
    assert len({len(revision) for revision in revisions}) == 1
    assert revisions[1].startswith("001672628645.2.")
    again = read(json.dumps(chat(versions[1]), indent=7))[0][0]["revision"]
    assert again == revisions[1]  # independent of the layout


def test_a_message_that_closes_its_list_too_early_costs_no_other(read: Read) -> None:
    """Within the layout of Telegram Desktop; only where another list begins, reading ends."""
    messages = [message(id=n, text_entities=[{"type": "plain", "text": f"t{n}"}]) for n in range(5)]
    chats = [chat(*messages, id=1), chat(*messages, id=2)]
    export = json.dumps({"chats": {"list": chats}}, indent=1)
    rows, reading = read(export.replace('"t2"\n', '"t2"} }]\n', 1))
    assert [(row["chat_key"][-1], row["message_id"]) for row in rows] == [
        *(("1", n) for n in (0, 1, 3, 4)), *(("2", n) for n in range(5)),
    ]  # fmt: skip
    assert reading.reason == "1 unreadable message left out"
