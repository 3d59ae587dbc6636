"""Messages that one pattern reads; the reader of these tests asserts that a tree gives the same rows."""

from pathlib import Path

import pytest
from html_pages import Read, media, message, page, reader, text

from flows.exports.html_head import head
from flows.samples.exports import Maker, SampleSpec
from flows.samples.html import chat_pages


@pytest.fixture
def read(tmp_path: Path) -> Read:
    return reader(tmp_path)


def test_most_messages_are_read_by_the_pattern(read: Read) -> None:
    """``read`` asserts that a tree gives the same rows."""
    chat, messages = Maker(SampleSpec(7, 0, 0, 64, 1_000)).chat("private_supergroup", 500, named=True)
    content = chat_pages(chat, messages, 1_000, zone=True)["messages.html"]
    rows, reading = read(content)
    assert (len(rows), reading.reason) == (500, None)
    complete = [one for one in head().finditer(content.encode()) if one["end"] or one["service_id"]]
    assert len(complete) > 0.85 * content.count(' id="message')


@pytest.mark.parametrize(
    "odd", ['<div class="message" id="read-by-pattern">', "<strong>", "<!--", '<a href="']
)
def test_odd_markup_costs_no_other_message(read: Read, odd: str) -> None:
    """``read`` asserts that a tree gives the same rows, also where markup is taken for a place in it."""
    messages = [message(1, text("one")), message(2, text(f"{odd}two")), message(3, media("media_poll"))]
    rows, _ = read(page(*messages, message(4, text("four"))))
    assert {1, 4} <= {row["message_id"] for row in rows}
