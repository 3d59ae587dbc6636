"""White space of pages: that of Telegram Desktop, of its texts, and that of programs that formatted them."""

import itertools
import re
from pathlib import Path

import pytest
from html_pages import Read, div, message, page, reader, service, text

from flows.exports.html_text import without_indent


@pytest.fixture
def read(tmp_path: Path) -> Read:
    return reader(tmp_path)


@pytest.mark.parametrize("layout", ["\n    ", "\r\n\t", " "])
def test_the_layout_of_other_programs_is_not_part_of_a_text(read: Read, layout: str) -> None:
    """Each tag and each text in a line of its own, or with a space where such a line was."""
    link = '<a href="#go_to_message4" onclick="return GoToMessage(4)">this message</a>'
    whole = page(
        service(-1, "28 July 2025"),
        message(1, text("<strong>b<br><br>c</strong>, d<br>e <em>f</em> g"), sender="Ann Lee"),
        message(2, text("plain"), sender=None),
        service(3, f"A pinned {link}"),
    )
    other = re.sub(r"\s*(<[^<>]*>)\s*", rf"{layout}\1{layout}", whole).replace("<br>", "<br/>")
    other = other.replace("  ", " ") if layout == " " else other
    other = re.sub(r"\s*28 July 2025\s*", "28 July 2025", other)  # Prettier leaves short texts where they are
    expected, found = (read(one)[0] for one in (whole, other))
    assert [row["text"] for row in found] == ["b\n\nc , d\ne f g", "plain", "A pinned this message"]
    for row, kept in zip(found, expected, strict=True):
        differ = {key for key in row if row[key] != kept[key]}
        assert differ <= {"text", "entities", "revision"}
    assert found[2]["service"] == {"message_id": 4}


def test_spaces_are_kept_in_pages_with_forwarded_messages(read: Read) -> None:
    """Telegram Desktop writes one before their time, and a service text may begin with spaces of a name."""
    sent = '<span class="date details" title="28.01.2025 09:00:00"> 28.01.2025 09:00:00</span>'
    forwarded = div("forwarded body", div("from_name", f"Bo {sent}") + text("<strong> a </strong><br> b"))
    rows, _ = read(
        page(service(1, "  A joined group"), message(2, forwarded), message(3, text("<em> c</em> d")))
    )
    assert [row["text"] for row in rows][1:] == [" a \n b", " c d"]


def test_messages_without_a_body_keep_their_text(read: Read) -> None:
    """A public data set has them: names were replaced by a program that set the text of the whole block."""
    bare = '<div class="message service" id="message1">A invited B</div>'
    day = bare.replace("message1", "message-1")
    flat = f'<div class="message default clearfix" id="message2">{div("from_name", "C")}{text("hello")}</div>'
    rows, reading = read(page(day, bare, flat))
    assert [(row["text"], row["sender_name"], row["action"], row["extra"]) for row in rows] == [
        ("A invited B", "A", "invite_members", None), ("hello", "C", None, None),
    ]  # fmt: skip
    assert reading.reason is None


def test_the_layout_of_the_file_is_not_part_of_a_text() -> None:
    layout = re.compile(r"\n *$")
    for length in range(8):
        for characters in itertools.product("a \n", repeat=length):
            words = "".join(characters)
            assert without_indent(words) == layout.sub("", words)
