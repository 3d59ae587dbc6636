"""Reading Telegram Desktop's HTML: pages, parts, keys of chats, and real exports."""

import json
from pathlib import Path
from typing import Any

import pytest
from html_pages import WHEN, Read, div, message, page, reader, service, text

from flows.exports.discover import Export, discover
from flows.exports.html_batch import HtmlBatch
from flows.exports.html_export import _TOGETHER, read_html
from flows.exports.json_export import read_json
from flows.exports.reading import Reading


@pytest.fixture
def read(tmp_path: Path) -> Read:
    return reader(tmp_path)


def test_the_chat_is_identified_by_its_name(read: Read) -> None:
    (row,), reading = read(page(message(1), name="Ta &amp; Bo 📚"))
    (chat,) = reading.chats
    assert row["chat_key"] == chat.chat_key == "html-79ae79f1964a9ac7~b6015e33"
    assert (chat.name, chat.form, chat.chat_id, chat.type, chat.messages) == (
        "Ta & Bo 📚",
        "html",
        None,
        None,
        1,
    )


def test_chats_of_one_name_are_distinguished_by_their_first_message(read: Read) -> None:
    """For example chats with deleted accounts, and two people's chats named "Mom"."""
    later = WHEN.replace("49:27", "49:28")
    created = service(1, "Channel &laquo;Deleted Account&raquo; created")

    def key(*messages: str) -> str:
        _, reading = read(page(service(-1, "28 July 2025"), *messages, name="Deleted Account"))
        (chat,) = reading.chats
        assert chat.name is None
        name, _, start = chat.chat_key.partition("~")
        assert (name, len(start)) == ("html-be1bd5eec34da8ea", 8 if messages else 0)
        return chat.chat_key

    first = key(message(5))
    assert key(message(5, text("edited since")), message(6), message(7)) == first
    others = [key(), key(message(6)), key(message(5, when=later)), key(created), key(service(1, "Bo joined"))]
    assert len({first, *others}) == 1 + len(others)
    assert key(created, message(5)) == first, "all channels begin with the same text, without a time"


def test_missing_parts_are_reported(tmp_path: Path) -> None:
    (tmp_path / "messages2.html").write_text(page(message(1)))
    (tmp_path / "messages4.html").write_text(page(message(2), following="messages5.html"))
    reading = Reading("x")
    parts = (tmp_path / "messages2.html", tmp_path / "messages4.html")
    assert sum(batch.num_rows for batch in read_html(Export("html", parts), reading)) == 2
    missing = "messages.html, messages3.html, messages5.html"
    assert reading.reason == f"parts missing: {missing}; {_TOGETHER}"


def test_the_part_behind_a_copy_of_a_part_is_not_missing(tmp_path: Path) -> None:
    """Browsers name a second download of a page ``messages (1).html``."""
    for name in ("messages.html", "messages (1).html"):
        (tmp_path / name).write_text(page(message(1), following="messages2.html"))
    (tmp_path / "messages2.html").write_text(
        page(message(2), back="messages.html", following="messages3.html")
    )
    readings = [Reading("x"), Reading("x")]
    rows = [
        sum(batch.num_rows for batch in read_html(export, reading))
        for export, reading in zip(discover(tmp_path), readings, strict=True)
    ]
    reasons = [reading.reason for reading in readings]
    assert sorted(rows) == [1, 2]
    assert sorted(map(str, reasons)) == ["None", f"parts missing: messages3.html; {_TOGETHER}"]


def test_a_large_gap_is_reported_as_a_range(tmp_path: Path) -> None:
    parts = tuple(tmp_path / f"messages{number}.html" for number in ("", "9" * 200))
    for part in parts:
        part.write_text(page(message(1)))
    reading = Reading("x")
    assert sum(batch.num_rows for batch in read_html(Export("html", parts), reading)) == 2
    assert f": messages2.html to messages{'9' * 199}8.html;" in (reading.reason or "")


def test_a_part_cut_off_anywhere_keeps_every_complete_message(read: Read) -> None:
    content = page(*[message(n, text(f"<strong>é {n}</strong>")) for n in range(1, 5)]).encode()
    ends = [
        content.index(b"\n\n     </div>\n", content.index(b'id="message%d"' % n)) + 13 for n in range(1, 5)
    ]
    for cut in range(content.index(b'<div class="history'), content.index(b"</html"), 5):
        rows, reading = read(content[:cut])
        assert [row["message_id"] for row in rows] == [n for n, end in enumerate(ends, 1) if end <= cut], cut
        assert all(row["text"] == f"é {row['message_id']}" for row in rows)
        assert "messages.html is cut off" in (reading.reason or "")


def test_a_long_page_is_read_in_pieces(read: Read) -> None:
    rows, reading = read(
        page(*[message(n, text("x" * 2000), sender="A" if n == 1 else None) for n in range(1, 1500)])
    )
    assert [row["message_id"] for row in rows] == list(range(1, 1500))
    assert {row["sender_name"] for row in rows} == {"A"}
    assert reading.reason is None


def test_characters_that_postgresql_rejects_are_replaced(read: Read) -> None:
    second = page(message(2, text("HERE"))).encode().replace(b"HERE", b"a\0\xff")
    rows, _ = read(page(message(1, text("a&#x0;b&#xD800;c\x01"))), second)
    assert [row["text"] for row in rows] == ["a\ufffdb\ufffdc\x01", "a\ufffd"]


@pytest.mark.parametrize("content", [b"", b"<html></html>", b"\x89PNG", b"<p>not a chat</p>", b"\xff\xfe<\0"])
def test_other_files_have_no_rows_and_a_reason(read: Read, content: bytes) -> None:
    rows, reading = read(content)
    assert rows == []
    assert reading.reason


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-be"])
def test_a_page_in_utf_16_is_read(read: Read, coding: str) -> None:
    content = page(*[message(n, text(f"é {n}")) for n in range(1, 3000)], name="Wide é")
    mark = "" if coding == "utf-16" else "\ufeff"
    rows, reading = read((mark + content).encode(coding))
    assert [row["text"] for row in rows] == [f"é {n}" for n in range(1, 3000)]
    assert (reading.chats[0].name, reading.reason) == ("Wide é", None)


def test_line_ends_of_windows_leave_no_trace(read: Read) -> None:
    content = page(message(1, text("a<br>b")), message(2, text("<pre>c<br>d</pre>"), sender=None), name="CR")
    rows, reading = read(content.replace("\n", "\r\n"))
    assert [(row["text"], row["sender_name"]) for row in rows] == [("a\nb", "A"), ("c\nd", "A")]
    assert (reading.chats[0].name, reading.reason) == ("CR", None)


@pytest.mark.parametrize("cut", ["text 4", 'message4"', "from_name"])
@pytest.mark.parametrize(("name", "ids"), [("Chat", [1, 2, 3, 6, 7]), ("Other", [1, 2, 3])])
def test_a_page_that_is_cut_off_where_another_begins_is_named(
    read: Read, cut: str, name: str, ids: list[int]
) -> None:
    """Joined by ``cat``. A page of another chat is not read; its messages are none of this one."""
    whole = page(*(message(number, text(f"text {number}")) for number in range(1, 6)))
    at = whole.index(cut, whole.index('id="message4"') - 10)
    rows, reading = read(whole[: at + 3] + page(message(6, text("text 6")), message(7), name=name))
    assert [row["message_id"] for row in rows] == ids
    assert "messages.html is cut off" in (reading.reason or "")
    assert ("behind the end of" in (reading.reason or "")) == (name == "Other")
    assert all("Exported" not in row["text"] for row in rows)


def test_zeros_within_a_page_are_named(read: Read) -> None:
    """The messages within them are gone, and the parser takes what is left for a sound page."""
    whole = page(*(message(number, text(f"text {number}")) for number in range(1, 10))).encode()
    start, end = whole.index(b"text 4"), whole.index(b"text 6")
    rows, reading = read(whole[:start] + bytes(end - start) + whole[end:])
    assert len(rows) == 7
    assert (
        reading.reason
        == "messages.html has zeros in it, as after a failure of the disk: what was there is lost"
    )
    assert read(whole + bytes(3000))[1].reason is None
    assert "zeros" not in (read(whole[:-300] + bytes(3000))[1].reason or "")


def test_line_breaks_may_be_rewritten(read: Read) -> None:
    rows, reading = read(page(message(1, text("a<BR>b<br />c<br class='x'>d<Br/>e<brand>f</brand>"))))
    assert ([row["text"] for row in rows], reading.reason) == (["a\nb\nc\nd\nef"], None)


def test_messages_within_the_message_above_are_read_once(read: Read) -> None:
    """Releases 4.15 to 5.8 did not close the table of buttons: all later messages lie within it."""
    link = '<tbody><tr><td class="bot_button_row"><a ="" href="https://e.org/">Go</a></td></tr></tbody>'
    table = f'<table class="bot_buttons_table">{link}<div class="signature details">Ed</div></table>'
    call = div("media_wrap", div("media_call", div("status details", "Outgoing (5 seconds)")))
    messages = [message(1, text("one"), table), message(2, text("two"), table), message(3, call)]
    ending = "\n     </div>\n"
    assert all(one.endswith(ending) for one in messages)
    rows, reading = read(page(*(one.removesuffix(ending) for one in messages)))
    assert [(row["text"], row["type"]) for row in rows] == [
        ("one", "message"), ("two", "message"), ("", "service"),
    ]  # fmt: skip
    buttons = [[{"type": "url", "text": "Go", "data": "https://e.org/"}]]
    assert [row["extra"] for row in rows[:2]] == [{"author": "Ed", "inline_bot_buttons": buttons}] * 2
    assert reading.reason is None


@pytest.mark.parametrize("odd", [".", "..", "a/..", "\0", "x" * 300])
def test_links_to_files_that_cannot_be_parts_cost_nothing(read: Read, odd: str) -> None:
    rows, reading = read(page(message(1), following=odd))
    assert (len(rows), reading.lost) == (1, 0)
    assert "please report" not in str(reading.reason)


def test_the_page_of_another_program_is_named(read: Read) -> None:
    _, reading = read(
        b'<html><body><section id="matrixchat"><li class="mx_EventTile">x</li></section></html>'
    )
    assert reading.reason == "not a Telegram export: its page was written by Element (Matrix)"
    for words in ('<div class="history">of our town</div>', '<div class="message default">hello</div>'):
        rows, reading = read(f"<!DOCTYPE html><html><body>{words}</body></html>")
        assert (rows, reading.chats) == ([], [])
        assert str(reading.reason).startswith("no chat in its HTML: not a Telegram export")


def test_messages_without_an_id_are_counted(read: Read) -> None:
    rows, reading = read(page(message(1), message(2).replace('id="message2"', ""), message(3)))
    assert [row["message_id"] for row in rows] == [1, 3]
    assert reading.reason == "1 message without a usable id left out"


def test_one_channel_in_both_forms(samples: Path) -> None:
    folder = samples / "public_channel_twin"
    readings = Reading("json"), Reading("html")
    as_json = [row for batch in read_json(folder / "result.json", readings[0]) for row in batch.to_pylist()]
    pages = Export("html", (folder / "messages.html",))
    html = read_html(pages, readings[1], HtmlBatch("Africa/Algiers"))
    as_html = [row for batch in html for row in batch.to_pylist()]
    assert [row["message_id"] for row in as_json] == [row["message_id"] for row in as_html]
    assert len(as_json) == len(as_html) == 213
    twins = [pair for pair in zip(as_json, as_html, strict=True) if pair[0]["type"] == "message"]
    assert len(twins) == 208
    for one, other in twins:
        assert one["text"].strip() == other["text"].strip()
        for name in ("type", "sent_at", "sent_local", "sender_name", "reply_to_message_id", "extra"):
            assert one[name] == other[name]
        assert formatting(one) == formatting(other)
    assert [row["action"] for row in as_json] == [row["action"] for row in as_html]
    assert readings[0].reason is readings[1].reason is None


def formatting(row: dict[str, Any]) -> list[dict[str, str]]:
    parts = json.loads(row["entities"] or "[]")
    return [{k: v for k, v in part.items() if k != "collapsed"} for part in parts if part["text"]]


def test_a_bot_demo(samples: Path) -> None:
    reading = Reading("x")
    pages = Export("html", (samples / "html_bot_demo" / "messages.html",))
    rows = [row for batch in read_html(pages, reading) for row in batch.to_pylist()]
    assert (len(rows), reading.reason, reading.chats[0].name) == (22, None, "ETU_DD_PRACTICE_BOT")
    assert {row["sender_name"] for row in rows} == {"Michael", "ETU_DD_PRACTICE_BOT"}
    assert sum(row["media"] is not None for row in rows) == 3


@pytest.mark.parametrize(
    "before", ["\ufeff", "\n\n", "<!-- saved from url=(0014)about:internet -->\n", '<?xml version="1.0"?>\n']
)
def test_text_that_editors_write_before_a_page_is_not_a_page(read: Read, before: str) -> None:
    rows, reading = read(before + page(message(1), message(2)))
    assert ([row["message_id"] for row in rows], reading.reason) == ([1, 2], None)


@pytest.mark.parametrize("odd", ["<!-- x", "<script>", "<textarea>", "<title>", "<plaintext>", "<style> <b"])
def test_markup_in_a_message_costs_no_other(read: Read, odd: str) -> None:
    rows, reading = read(page(message(1), message(2, text(f"a {odd}")), message(3, sender=None), message(4)))
    assert [(row["message_id"], row["sender_name"]) for row in rows] == [(n, "A") for n in (1, 2, 3, 4)]
    assert reading.reason is None


def test_messages_that_no_known_markup_holds_are_counted(read: Read) -> None:
    rows, reading = read(page(message(1), message(2).replace("<div class", "<article class", 1), message(3)))
    assert [row["message_id"] for row in rows] == [1, 3]
    assert reading.reason == "1 unreadable message left out"
