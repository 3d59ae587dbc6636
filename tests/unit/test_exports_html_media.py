"""Media, reactions and buttons of messages in Telegram Desktop's HTML."""

from pathlib import Path
from typing import Any

import pytest
from html_pages import LOCAL, Read, div, initials, media, message, page, reader, service, text


@pytest.fixture
def read(tmp_path: Path) -> Read:
    return reader(tmp_path)


NOT_INCLUDED = "Not included, change data exporting settings to download."

POLL = div(
    "media_poll",
    div("question bold", "Tea?")
    + div("details", "Final results")
    + div("answer", '- Yes <span class="details">2 votes, chosen vote</span>')
    + div("answer", "- No")
    + div("total details\t", "2 votes"),
)

TODO = div(
    "media_poll", div("question bold", "Shop") + div("details", "To-do List") + div("answer", "- Milk")
)


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        (media("media_photo", "Photo", NOT_INCLUDED, "1174×973, 114.6 KB"),
         {"photo": "(File not included. Change data exporting settings to download.)",
          "width": 1174, "height": 973, "status": "1174×973, 114.6 KB"}),
        (media("media_photo", "Sticker", "Unavailable, please try again later.", "🤔, 9.0 KB"),
         {"file": "(File unavailable, please try again later)", "media_type": "sticker",
          "sticker_emoji": "🤔", "status": "🤔, 9.0 KB"}),
        (media("media_video", "Video file", "Exceeds maximum size, change …", "03:28, 8.4 MB"),
         {"file": "(File exceeds maximum size. Change data exporting settings to download.)",
          "media_type": "video_file", "duration_seconds": 208, "status": "03:28, 8.4 MB"}),
        (media("media_voice_message", "Voice message", "", "1:00:04", "../../voice_messages/a.ogg"),
         {"file": "voice_messages/a.ogg", "media_type": "voice_message", "duration_seconds": 3604,
          "status": "1:00:04"}),
        (media("media_audio_file", "Band – Song", "", "00:10", "files/a.mp3"),
         {"file": "files/a.mp3", "media_type": "audio_file", "performer": "Band", "title": "Song",
          "duration_seconds": 10, "status": "00:10"}),
        (media("media_file", "a &amp; b.pdf", "", "34.2 KB", "files/a.pdf"),
         {"file": "files/a.pdf", "file_name": "a & b.pdf", "status": "34.2 KB"}),
        (media("media_contact", "Jo Doe", "", "+1 23 - vCard", "contacts/1.vcard"),
         {"contact_information": {"name": "Jo Doe", "phone_number": "+1 23"},
          "contact_vcard": "contacts/1.vcard"}),
        (media("media_location", "Location", "", "12.5, -0.25", "https://maps.google.com/maps?q=12.5,-0.25"),
         {"location_information": {"latitude": 12.5, "longitude": -0.25}}),
        (media("media_location", "Location", "", "55,755831, -37,617673"),
         {"location_information": {"latitude": 55.755831, "longitude": -37.617673}}),
        (media("media_location", "Location", "", "unknown"),
         {"location_information": None, "status": "unknown"}),
        (media("media_venue", "Café", "Street 1", "", "https://maps.google.com/maps?q=1.0,2.0&amp;z=16"),
         {"place_name": "Café", "address": "Street 1",
          "location_information": {"latitude": 1.0, "longitude": 2.0}}),
        (media("media_game", "Game", "Fun", "", "https://t.me/b?game=g"),
         {"game_title": "Game", "game_description": "Fun", "game_link": "https://t.me/b?game=g"}),
        (media("media_invoice", "Tea", "of herbs", "$1.00"),
         {"invoice_information": {"title": "Tea", "description": "of herbs", "status": "$1.00"}}),
        (media("media_invoice", "", "", "⭐ 25"), {"paid_stars_amount": 25}),
        (media("media_hologram", "New", "of next year", "3D", "holo/1.bin"),
         {"file": "holo/1.bin", "media_type": "hologram", "title": "New", "description": "of next year",
          "status": "3D"}),
        (div("media_wrap clearfix", '<a class="photo_wrap clearfix pull_left" href="photos/1.jpg">'
             '<img class="photo" src="photos/1_thumb.jpg"/></a>'), {"photo": "photos/1.jpg"}),
        (div("media_wrap clearfix", '<a class="video_file_wrap clearfix pull_left" href="v/1.mp4">'
             '<div class="video_duration">\n00:07\n</div><img class="video_file" src="v/1_thumb.jpg"/></a>'),
         {"file": "v/1.mp4", "media_type": "video_file", "thumbnail": "v/1_thumb.jpg",
          "duration_seconds": 7}),
        (div("media_wrap clearfix", POLL),
         {"poll": {"question": "Tea?", "closed": True, "total_voters": 2, "answers": [
             {"text": "Yes", "voters": 2, "chosen": True}, {"text": "No", "voters": 0, "chosen": False}]}}),
        (div("media_wrap clearfix", POLL.replace("Final results", "Quiz").replace("chosen vote", "right")),
         {"poll": {"question": "Tea?", "closed": False, "note": "Quiz", "total_voters": 2, "answers": [
             {"text": "Yes", "voters": 0, "chosen": False, "details": "2 votes, right"},
             {"text": "No", "voters": 0, "chosen": False}]}}),
        (div("media_wrap clearfix", TODO), {"todo_list": {"title": "Shop", "answers": [{"text": "Milk"}]}}),
        (div("media_wrap clearfix", div("media_giveaway", div("section_title bold", "Prizes"))),
         {"giveaway_information": {"text": "Prizes"}}),
        (div("media_wrap clearfix", div("media_giveaway", div("section_title bold", "Winner Selected!"))),
         {"giveaway_results": {"text": "Winner Selected!"}}),
        (div("media_wrap clearfix", "odd"), {"media_type": "unknown", "media_text": "odd"}),
    ],
)  # fmt: skip
def test_media(read: Read, html: str, expected: dict[str, Any]) -> None:
    (row,), reading = read(page(message(5, html, text("caption"))))
    assert row["media"] == expected
    assert (row["text"], row["extra"], reading.reason) == ("caption", None, None)


def test_reactions_buttons_and_signatures(read: Read) -> None:
    reactions = (
        '<span class="reactions"><span class="reaction active"><span class="emoji">\n❤\n</span><span class='
        '"userpics"><div class="userpic"><div class="initials" title="Jo Doe">\nJ\n</div></div></span></span>'
        '<span class="reaction paid"><span class="emoji">\n⭐\n</span><span class="count">\n7\n</span></span>'
        '<span class="reaction"><span class="emoji"><a href = "stickers/s.webp">👋</a></span>'
        '<span class="count">2</span></span></span>'
    )
    buttons = (
        '<table class="bot_buttons_table"><tbody><tr><td class="bot_button_row"><div class="bot_button">'
        '<a href="https://e.org/"><div>\nOpen\n</div></a></div><div class="bot_button"><a onclick="return '
        "ShowTextCopied('Data: abc | Type: callback');\"><div>\nGo\n</div></a></div></td></tr></tbody>"
        "</table>"
    )
    (row,), _ = read(page(message(1, text("x"), buttons, div("signature details", "Ed"), reactions)))
    assert row["reactions"] == [
        {"type": "emoji", "count": 1, "emoji": "❤", "recent": [{"from": "Jo Doe"}]},
        {"type": "paid", "count": 7},
        {"type": "custom_emoji", "count": 2, "document_id": "stickers/s.webp"},
    ]
    url = {"type": "url", "text": "Open", "data": "https://e.org/"}
    callback = {"type": "callback", "text": "Go", "data": "abc"}
    assert row["extra"] == {"author": "Ed", "inline_bot_buttons": [[url, callback]]}


def test_a_rich_message_is_read_by_lines(read: Read) -> None:
    """Its blocks have lines of their own, as in releases of 2026; ``pre`` has none."""
    blocks = (
        '<h2 class="rich_heading">\nHours\n   </h2>\n\n   <p class="rich_paragraph" dir="auto">\n'
        'From <strong>nine</strong>,<br>see <a href="https://e.org/">here</a>\n   </p>\n\n   <ul>\n'
        "\n    <li>\n"
        '<span class="rich_list_content">bring a bag</span>\n    </li>\n\n   </ul>\n'
        '<pre class="rich_code"><code>if x:<br>    go()</code></pre>'
        + div(
            "media_wrap clearfix",
            '<a class="photo_wrap" href="../../photos/1.jpg"><img src="photos/t.jpg"/></a>',
        )
    )
    shown = f'<div class="text rich_message" data-rich-message="1" dir="auto">{blocks}</div>'
    (row,), reading = read(page(message(1, shown, div("signature details", "Ed"))))
    assert row["text"] == "Hours\nFrom nine,\nsee here\nbring a bag\nif x:\n    go()"
    links = ["https://e.org/", "photos/1.jpg", "photos/t.jpg"]
    assert row["extra"] == {"author": "Ed", "rich_message": {"links": links}}
    assert (row["entities"], reading.reason) == (None, None)


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("<a onclick=\"return ShowTextCopied('Data: a | b | Type: callback');\">",
         {"type": "callback", "data": "a | b"}),
        ("<a onclick=\"return ShowTextCopied('Data: a | Forward text: c | Type: auth');\">",
         {"type": "auth", "data": "a", "forward_text": "c"}),
        ("<a onclick=\"return ShowTextCopied('Data: it\\'s \\\\ | Type: game');\">",
         {"type": "game", "data": "it's \\"}),
        ("<a onclick=\"return ShowTextCopied('Type: buy');\">", {"type": "buy"}),
        ('<a onclick="Other(1)">', {"type": "url", "data": "Other(1)"}),
        ("<span>", {"type": "url"}),
    ],
)  # fmt: skip
def test_a_button_is_kept_whole(read: Read, tag: str, expected: dict[str, str]) -> None:
    shown = div("bot_button", f"{tag}<div>\nGo\n</div></{tag[1:].split()[0].strip('>')}>")
    table = f'<table class="bot_buttons_table"><tr><td class="bot_button_row">{shown}</td></tr></table>'
    (row,), _ = read(page(message(1, text("x"), table)))
    assert row["extra"] == {"inline_bot_buttons": [[{"text": "Go", **expected}]]}


def test_reactions_of_releases_that_wrote_div(read: Read) -> None:
    """From 5.6 to 5.13."""
    count = div("count", "12")
    blocks = [
        div("reaction active", div("emoji", "❤") + div("userpics", div("userpic", initials("JD", "Jo Doe")))),
        div("reaction", div("emoji", '<a href = "stickers/sticker (3).webp">👋</a>') + count),
        div("reaction paid", div("emoji", "⭐") + count),
    ]
    (row,), _ = read(page(message(1, text("x"), div("reactions", "".join(blocks)))))
    assert row["reactions"] == [
        {"type": "emoji", "emoji": "❤", "count": 1, "recent": [{"from": "Jo Doe"}]},
        {"type": "custom_emoji", "document_id": "stickers/sticker (3).webp", "count": 12},
        {"type": "paid", "count": 12},
    ]


def button(label: str) -> str:
    link = f"<a onclick=\"return ShowTextCopied('Data: 1 | Type: callback');\"><div>\n{label}\n</div></a>"
    block = div("bot_button", f"\n{link}\n")
    return f'<table class="bot_buttons_table"><tr><td class="bot_button_row">\n{block}</td></tr></table>'


@pytest.mark.parametrize("shown", ["<A", "<?", "A<", "<<", "</", "<!", "<", "<3"])
@pytest.mark.parametrize("layout", ["lines", "one line"])
def test_initials_that_begin_a_tag_swallow_nothing(read: Read, shown: str, layout: str) -> None:
    """Before 2.5.9 initials were not escaped."""
    first = message(1, text("one"), sender="&lt;3 Mia").replace(">A</div>", f">\n{shown}\n        </div>")
    paid = div("userpics", initials(shown, "Jo"))
    reacted = div("reactions", div("reaction", div("emoji", "❤") + paid))
    whole = page(first, message(2, text("two"), reacted), message(3, text("three")))
    rows, reading = read(whole if layout == "lines" else whole.replace("\n", ""))
    assert [(row["text"].strip(), row["sender_name"]) for row in rows] == [
        ("one", "<3 Mia"), ("two", "A"), ("three", "A"),
    ]  # fmt: skip
    assert all(row["sent_local"] == LOCAL for row in rows)
    assert rows[1]["reactions"][0]["recent"] == [{"from": "Jo"}]
    assert reading.reason is None


@pytest.mark.parametrize("answer", ["<b>", "a <div> b", "</div>", "<3", "x &lt; <!--"])
def test_answers_of_polls_that_begin_a_tag_swallow_nothing(read: Read, answer: str) -> None:
    whole = page(service(1, f"A added &quot;{answer}&quot; to the poll."), message(2, text("two")))
    rows, reading = read(whole)
    shown = answer.replace("&lt;", "<")
    assert [(row["message_id"], row["text"]) for row in rows] == [
        (1, f'A added "{shown}" to the poll.'), (2, "two"),
    ]  # fmt: skip
    assert (rows[0]["service"], reading.reason) == ({"option": shown}, None)


@pytest.mark.parametrize(
    "label", ["<3", "a <b> c", "<div>", "x < y", "<a href='", "</a>", "<!-- -->", "plain"]
)
def test_labels_of_buttons_that_begin_a_tag_swallow_nothing(read: Read, label: str) -> None:
    rows, reading = read(page(message(1, text("one"), button(label)), message(2, text("two"))))
    assert [(row["message_id"], row["text"]) for row in rows] == [(1, "one"), (2, "two")]
    assert rows[0]["extra"] == {"inline_bot_buttons": [[{"type": "callback", "text": label, "data": "1"}]]}
    assert reading.reason is None
