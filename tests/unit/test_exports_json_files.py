"""Files of JSON that hold several exports, a part of one, or none."""

import json
from pathlib import Path

import pytest
from json_chats import START, Json, Read, chat, layouts, message, reader

from flows.exports.scan import CHUNK, MOST_BROKEN


@pytest.fixture
def read(tmp_path: Path) -> Read:
    return reader(tmp_path)


NUMBERS = range(3)
CUT_OFF = "cut off in the middle: complete messages before that were kept; export or copy it again"
#: What programs put between and behind documents that they join, or a power failure leaves.
JOINTS = ["", "\n", "\r\n", ",", "\ufeff", "\0" * 5000, "\x1a", "\n\x1e", "\ufeff\n\0" * (CHUNK // 4)]


@pytest.mark.parametrize("joint", JOINTS)
def test_all_exports_of_a_file_are_read(read: Read, joint: str) -> None:
    first, last = chat(*map(numbered, NUMBERS), id=1), chat(numbered(0), kind="private_group", id=3)
    account = {"personal_information": {"user_id": 9}, "chats": {"list": [chat(numbered(5), id=2)]}}
    found = [(f"channel{chat_id}", n) for chat_id, n in ((1, 0), (1, 1), (1, 2), (2, 5))]
    for texts in zip(*map(layouts, (first, account, last)), strict=True):
        rows, reading = read(joint.join(texts) + joint)
        assert [(row["chat_key"], row["message_id"]) for row in rows[:-1]] == found
        assert reading.chats[-1].chat_key == "chat3" + START, "an account counts only in its own export"
        assert reading.reason is None


def numbered(number: int) -> Json:
    return message(id=number)


def test_all_exports_of_an_array_are_read(read: Read) -> None:
    chats = [chat(numbered(1), id=1), chat(numbered(2), id=2)]
    for export in (chats, {"chats": chats}):
        rows, reading = read(export)
        assert [(row["chat_key"], row["message_id"]) for row in rows] == [("channel1", 1), ("channel2", 2)]
        assert reading.reason is None


@pytest.mark.parametrize(
    ("behind", "reason"),
    [
        ("}", "not read: the 1 bytes behind the end of its JSON"),
        ("\nsome words", "not read: the 10 bytes behind the end of its JSON"),
        ('{"name": "package"}', "not read: 1 JSON documents in it that are not exports"),
        ("[1, 2]", "not read: 2 JSON documents in it that are not exports"),
        ('{"messages": [', CUT_OFF),
        ("x" * 3 * CHUNK, f"not read: the {3 * CHUNK} bytes behind the end of its JSON"),
    ],
)  # fmt: skip
def test_what_follows_an_export_is_named(read: Read, behind: str, reason: str) -> None:
    for text in layouts(chat(message())):
        rows, reading = read(text + behind)
        assert (len(rows), reading.reason) == (1, reason)


@pytest.mark.parametrize("size", [3, 20_000])
@pytest.mark.parametrize("cut", ['"from_id"', "},", "}"])
def test_an_export_behind_one_that_is_cut_off_is_read(read: Read, size: int, cut: str) -> None:
    whole = json.dumps(chat(*map(numbered, range(size)), id=1), indent=1)
    end = whole.rindex(cut, 0, whole.rindex('"id"')) + len(cut)
    rows, reading = read(whole[:end] + json.dumps(chat(numbered(7), numbered(8), id=2), indent=1))
    assert [(row["chat_key"], row["message_id"]) for row in rows[-2:]] == [("channel2", 7), ("channel2", 8)]
    assert [(row["chat_key"], row["message_id"]) for row in rows[:-2]] == [
        ("channel1", n) for n in range(whole[:end].count("}"))
    ]
    assert "another JSON document begins at byte" in (reading.reason or "")


def test_a_comma_behind_the_last_message_does_not_mix_chats(read: Read) -> None:
    chats = [chat(numbered(1), numbered(2), id=1), chat(numbered(3), id=2)]
    text = json.dumps({"chats": {"list": chats}}, indent=1)
    for odd in (text.replace("}\n    ]", "},\n    ]"), text.replace("\n      }", ",\n      }")):
        rows, reading = read(odd)
        assert [(row["chat_key"], row["message_id"]) for row in rows] == [
            ("channel1", 1), ("channel1", 2), ("channel2", 3),
        ]  # fmt: skip
        assert reading.reason is None


NO_EXPORTS = [
    b"", b" \n", b"null", b"[1, 2]", b"{}", b'{"name": "package", "version": 1}', b'"x"', b"\x89PNG\r\n",
    b"{" * 5000, b'{"messages": 5}', b'{"chats": 5', b"\xff\xfe{\x00", b'{"a": {"b": ', b"{1: 2}",
    b'{"messages": [{"id": "1", "type": "Default", "timestamp": "2020-01-01T00:00:00", "content": "x"}]}',
    b'{"messages": [{"id": 1', b"[]", b"[[]]", b'{"chats": 5}', b'{"a": 1}{"a": 2}',
]  # fmt: skip


@pytest.mark.parametrize("content", NO_EXPORTS)
def test_other_files_have_no_rows_and_a_reason(read: Read, content: bytes) -> None:
    rows, reading = read(content)
    assert rows == []
    assert reading.reason


@pytest.mark.parametrize("indent", [1, None])
def test_an_export_cut_off_anywhere_keeps_every_complete_message(read: Read, indent: int | None) -> None:
    messages = [message(id=n, text=["é ", {"type": "bold", "text": "}]"}], last=n) for n in range(4)]
    whole = {"about": "x", "chats": {"list": [chat(*messages[:2], id=1), chat(*messages[2:], id=2)]}}
    content = json.dumps(whole, indent=indent, ensure_ascii=False).encode()
    ends = [content.index(b"}", content.index(b'"last": %d' % n)) + 1 for n in range(4)]
    for cut in range(content.index(b'"chats"'), len(content)):
        rows, reading = read(content[:cut])
        assert len(rows) == sum(end <= cut for end in ends), content[:cut][-50:]
        assert "cut off in the middle" in (reading.reason or "")


@pytest.mark.parametrize("indent", [1, None])
@pytest.mark.parametrize("joint", ["", "\n"])
def test_an_export_behind_one_on_a_line_that_is_cut_off_anywhere_is_read(
    read: Read, joint: str, indent: int | None
) -> None:
    messages = [message(id=n, text=["é ", {"type": "bold", "text": "}]"}], last=n) for n in range(3)]
    whole = json.dumps(chat(*messages, id=1), ensure_ascii=False, separators=(",", ":"))
    behind = json.dumps(chat(numbered(7), numbered(8), id=2), indent=indent)
    ends = [whole.index("}", whole.index(f'"last":{n}')) + 1 for n in range(3)]
    for cut in range(10, len(whole), 7):
        rows, reading = read(whole[:cut] + joint + behind)
        assert [row["message_id"] for row in rows] == [n for n in range(3) if ends[n] <= cut] + [7, 8]
        assert rows[-1]["chat_key"] == "channel2"
        assert reading.reason


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize(
    ("sound", "broken"),
    [
        ('"id"COLON3,', '"idCOLON3,'),
        ('"last3"', '"la"st3"'),
        ('"last3"', '"last3'),
        ('"last3"', '"last3"]'),
        ("3}", "3"),
        ("3}", "[3}"),
    ],
)
def test_a_broken_message_of_one_line_costs_no_other(
    read: Read, separators: tuple[str, str], sound: str, broken: str
) -> None:
    messages = [message(id=n, **{f"last{n}": n}) for n in range(1, 6)]
    chats = [chat(*messages, id=1), chat(*messages, id=2)]
    for export in (chats[0], {"personal_information": {"user_id": 9}, "chats": {"list": chats}}):
        text = json.dumps(export, separators=separators)
        old, new = (one.replace("COLON", separators[1]) for one in (sound, broken))
        assert old in text
        rows, reading = read(text.replace(old, new, 1))
        expected = [1, 2, 4, 5] + ([] if export is chats[0] else [1, 2, 3, 4, 5])
        assert [row["message_id"] for row in rows] == expected, text
        assert "unreadable message" in (reading.reason or "")


@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_raw_line_breaks_in_the_texts_of_one_line_cost_no_message(read: Read, line_break: str) -> None:
    numbers = range(2 * MOST_BROKEN)
    export = chat(*(message(id=number, text=f"a BREAK{{{number}") for number in numbers))
    rows, reading = read(json.dumps(export).replace("BREAK", line_break))
    assert [row["text"] for row in rows] == [f"a {line_break}{{{number}" for number in numbers]
    assert reading.reason is None
