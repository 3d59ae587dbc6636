"""Messages in Telegram Desktop's HTML: texts, times, senders, media, service messages."""

import itertools
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from html_pages import WHEN, Read, div, media, message, page, reader, service, text

from flows.exports.html_text import without_indent


@pytest.fixture
def read(tmp_path: Path) -> Read:
    return reader(tmp_path)


LOCAL = datetime(2025, 7, 28, 20, 49, 27)  # noqa: DTZ001 -- the exporter's wall clock has no zone

NOT_INCLUDED = "Not included, change data exporting settings to download."


def plain(words: str) -> dict[str, str]:
    return {"type": "plain", "text": words}


@pytest.mark.parametrize(
    ("html", "words", "entities"),
    [
        ("plain &lt;b&gt; &amp;amp; &quot;x&quot;<br><br>two", 'plain <b> &amp; "x"\n\ntwo', None),
        ("<br>first and last<br>", "\nfirst and last\n", None),
        ("  spaces ", "  spaces ", None),
        ("<strong>b<br>c</strong>", "b\nc", [{"type": "bold", "text": "b\nc"}]),
        ("a<em>i</em>", "ai", [plain("a"), {"type": "italic", "text": "i"}]),
        ("<u>u</u>", "u", [{"type": "underline", "text": "u"}]),
        ("<s>s</s>", "s", [{"type": "strikethrough", "text": "s"}]),
        ("<code>c</code>", "c", [{"type": "code", "text": "c"}]),
        ("<pre><br>p<br> q</pre>", "\np\n q", [{"type": "pre", "text": "\np\n q"}]),
        ("<blockquote>q</blockquote>", "q", [{"type": "blockquote", "text": "q"}]),
        (
            '<span class="spoiler hidden" onclick="…"><span aria-hidden="true">x</span></span>',
            "x",
            [{"type": "spoiler", "text": "x"}],
        ),
        ('<a href="https://e.org/?a&amp;b">https://e.org/?a&amp;b</a>', "https://e.org/?a&b",
         [{"type": "link", "text": "https://e.org/?a&b"}]),
        ('<a href="Banki.ru">Banki.ru</a>', "Banki.ru", [{"type": "link", "text": "Banki.ru"}]),
        ('<a href="https://e.org/">here</a>', "here",
         [{"type": "text_link", "text": "here", "href": "https://e.org/"}]),
        ('<a href="https://t.me/bob">@bob</a>', "@bob", [{"type": "mention", "text": "@bob"}]),
        ('<a href="mailto:a@b.c">a@b.c</a>', "a@b.c", [{"type": "email", "text": "a@b.c"}]),
        ('<a href="tel:+1">+1</a>', "+1", [{"type": "phone", "text": "+1"}]),
        ('<a href="" onclick="return ShowHashtag(&quot;x&quot;)">#x</a>', "#x",
         [{"type": "hashtag", "text": "#x"}]),
        ('<a href="" onclick="return ShowCashtag(&quot;X&quot;)">$X</a>', "$X",
         [{"type": "cashtag", "text": "$X"}]),
        ('<a href="" onclick="return ShowBotCommand(&quot;x&quot;)">/x</a>', "/x",
         [{"type": "bot_command", "text": "/x"}]),
        ('<a href="" onclick="return ShowMentionName()">Bob</a>', "Bob",
         [{"type": "mention_name", "text": "Bob"}]),
        ('<a href="" onclick="return ShowNotLoadedEmoji();">☪</a>', "☪",
         [{"type": "custom_emoji", "text": "☪"}]),
        ('<a href = "../../stickers/sticker (1).webp">☪</a>', "☪",
         [{"type": "custom_emoji", "text": "☪", "document_id": "stickers/sticker (1).webp"}]),
    ],
)  # fmt: skip
def test_text(read: Read, html: str, words: str, entities: list[dict[str, str]] | None) -> None:
    (row,), reading = read(page(message(5, text(html))))
    assert (row["message_id"], row["type"], row["text"]) == (5, "message", words)
    assert row["entities"] == entities
    assert reading.reason is None


@pytest.mark.parametrize(
    ("when", "sent_at", "sent_local"),
    [
        (WHEN, None, LOCAL),  # UTC+02:00 is the winter's offset, and summer time in most zones that have it
        ("28.07.2025 20:49:27 UTC+05:30", datetime(2025, 7, 28, 15, 19, 27, tzinfo=UTC), LOCAL),
        ("28.07.2025 20:49:27", None, LOCAL),
        ("31.02.2025 20:49:27 UTC+02:00", None, None),
        ("yesterday", None, None),
    ],
)
def test_time(read: Read, when: str, sent_at: datetime | None, sent_local: datetime | None) -> None:
    (row,), _ = read(page(message(5, text("x"), when=when)))
    assert (row["sent_at"], row["sent_local"]) == (sent_at, sent_local)
    if when == "yesterday":
        assert row["extra"] == {"date": "yesterday"}, "what is not understood is kept"


def test_the_operators_zone_gives_the_instant(tmp_path: Path) -> None:
    title = '<span class="date details" title="28.01.2025 09:00:00 UTC+02:00"> 28.01.2025 09:00:00</span>'
    forwarded = div("forwarded body", div("from_name", f"Bo {title}") + text("x"))
    (row, first), _ = reader(tmp_path, "Europe/Kyiv")(page(message(5, text("x")), message(6, forwarded)))
    assert row["sent_at"] == datetime(2025, 7, 28, 17, 49, 27, tzinfo=UTC)
    assert first["forward"]["forwarded_date_unixtime"] == "1738047600"


def test_senders_are_inherited_by_joined_messages_across_parts(read: Read) -> None:
    rows, _ = read(
        page(
            message(1), message(2, sender=None), message(3, sender="Bo via @gif"), following="messages2.html"
        ),
        page(message(4, sender=None), message(5, sender="Deleted Account"), message(6, sender=None)),
    )
    assert [row["sender_name"] for row in rows] == ["A", "A", "Bo", "Bo", None, None]
    assert [row["extra"] for row in rows[2:4]] == [{"via_bot": "@gif"}] * 2


def test_the_origin_of_a_forwarded_message_is_not_its_sender(read: Read) -> None:
    stamp = '<span class="date details" title="01.02.2020 03:04:05"> 01.02.2020 03:04:05</span>'
    origin = div("from_name", f"Somebody Else {stamp}")
    quoted = text("quoted")
    rows, _ = read(
        page(
            message(1, div("pull_left forwarded userpic_wrap", ""), div("forwarded body", origin + quoted)),
            message(2, div("forwarded body", quoted), sender=None),
            message(3, text("own"), sender="B"),
            message(4, text("own"), sender=None),
        )
    )
    assert [row["sender_name"] for row in rows] == ["A", "A", "B", "B"]
    assert [row["text"] for row in rows] == ["quoted", "quoted", "own", "own"]
    forward = {"forwarded_from": "Somebody Else", "forwarded_date": "2020-02-01T03:04:05"}
    assert [row["forward"] for row in rows] == [forward, forward, None, None]


def test_replies(read: Read) -> None:
    link = 'In reply to <a href="{}#go_to_message72" onclick="return GoToMessage(72)">this message</a>'
    rows, _ = read(
        page(
            message(1, div("reply_to details", link.format(""))),
            message(2, div("reply_to details", link.format("messages12.html"))),
            message(3, div("reply_to details", "In reply to a message in another chat")),
        )
    )
    assert [row["reply_to_message_id"] for row in rows] == [72, 72, None]
    assert rows[2]["extra"] == {"reply_to": "In reply to a message in another chat"}


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


def initials(shown: str, name: str = "") -> str:
    title = f' title="{name}"' if name else ""
    return f'<div class="initials" style="line-height: 42px"{title}>\n{shown}\n        </div>'


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


@pytest.mark.parametrize(
    "label", ["<3", "a <b> c", "<div>", "x < y", "<a href='", "</a>", "<!-- -->", "plain"]
)
def test_labels_of_buttons_that_begin_a_tag_swallow_nothing(read: Read, label: str) -> None:
    rows, reading = read(page(message(1, text("one"), button(label)), message(2, text("two"))))
    assert [(row["message_id"], row["text"]) for row in rows] == [(1, "one"), (2, "two")]
    assert rows[0]["extra"] == {"inline_bot_buttons": [[{"type": "callback", "text": label, "data": "1"}]]}
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
    ("html", "expected"),
    [
        ('A B pinned <a href="#go_to_message4">this message</a>',
         {"action": "pin_message", "sender_name": "A B", "service": {"message_id": 4},
          "text": "A B pinned this message"}),
        ("A created group &laquo;T &amp; Co&raquo; with members B and C",
         {"action": "create_group", "sender_name": "A", "service": {"title": "T & Co"}}),
        ("Channel &laquo;T&raquo; created", {"action": "create_channel", "sender_name": None}),
        ("A joined group by link from B", {"action": "join_group_by_link", "service": {"inviter": "B"}}),
        ('A scored 7 in <a href="#go_to_message4">this game</a>',
         {"action": "score_in_game", "sender_name": "A", "service": {"score": 7, "game_message_id": 4}}),
        ("A invited B and C to the voice chat", {"action": "invite_to_group_call", "sender_name": "A"}),
        ("A invited B and C", {"action": "invite_members", "sender_name": "A"}),
        ("A started voice chat (61 seconds)",
         {"action": "group_call", "sender_name": "A", "service": {"duration": 61}}),
        ("A changed topic title to &laquo;T, &raquo;U&raquo;,icon to &laquo;5&raquo;",
         {"action": "topic_edit", "service": {"new_title": "T, »U", "new_icon_emoji_id": "5"}}),
        ("New messages will auto-delete in 7 days", {"action": "set_messages_ttl", "sender_name": None}),
        ('A set <a href="#go_to_message4">the same background</a> for this chat',
         {"action": "set_same_chat_wallpaper", "service": {"message_id": 4}}),
        ("A removed &quot;No&quot; from the poll.",
         {"action": "poll_delete_answer", "sender_name": "A", "service": {"option": "No"}}),
        ("A added tasks: &quot;who removed it&quot;", {"action": "todo_append_tasks", "sender_name": "A"}),
        ('A marked 1 as done in <a href="#go_to_message4">this todo list</a>.',
         {"action": "todo_completions", "sender_name": "A", "service": {"message_id": 4}}),
        ("A sent you a gift for $5: Telegram Premium for 30 days.",
         {"action": "send_premium_gift", "sender_name": "A", "service": {"cost": "$5", "days": 30}}),
        ("A sent you a gift of 25 Telegram Stars: she invited me",
         {"action": "send_star_gift", "sender_name": "A", "service": {"stars": 25}}),
        ("A boosted the group 3 times",
         {"action": "boost_apply", "sender_name": "A", "service": {"boosts": 3}}),
        ("A made B the new main admin of the group",
         {"action": "change_creator", "sender_name": "A", "service": {"new_creator": "B"}}),
        ("You refunded 20 Stars for 2 messages to B",
         {"action": "paid_messages_refund", "sender_name": None,
          "service": {"stars_count": 20, "messages_count": 2}}),
        ("The user refunded the payment, post was deleted.",
         {"action": "suggested_post_refund", "sender_name": None}),
        ("You allowed this bot to message you in his web-app.",
         {"action": "web_app_bot_allowed", "sender_name": None}),
        ("A did what no release before did", {"action": None, "sender_name": None, "service": None,
                                              "text": "A did what no release before did"}),
        ("This message is not supported by this version of Telegram Desktop. Please update the application.",
         {"type": "unsupported", "text": ""}),
    ],
)  # fmt: skip
def test_service_messages(read: Read, html: str, expected: dict[str, Any]) -> None:
    (row,), reading = read(page(service(-1, "28 July 2025"), service(8, html)))
    assert {name: row[name] for name in expected} == expected
    assert row["type"] == expected.get("type", "service")
    assert (row["message_id"], row["sent_at"], reading.reason) == (8, None, None)


def test_a_phone_call_is_a_service_message(read: Read) -> None:
    (row,), _ = read(page(message(1, media("media_call success", "Bo", "", "Outgoing (20 seconds)"))))
    assert (row["type"], row["action"], row["sender_name"], row["media"]) == (
        "service",
        "phone_call",
        "A",
        None,
    )
    assert row["service"] == {"status": "Outgoing (20 seconds)", "duration_seconds": 20, "peer_name": "Bo"}


def test_the_photo_of_a_service_message_is_kept(read: Read) -> None:
    """Its path, as in JSON; a photo that was not exported is shown by initials."""
    picture = '<a class="userpic_link" href="../../photos/photo_7.jpg">\n<img src="photos/t.jpg"/></a>'
    blocks = [div("userpic_wrap", picture), div("userpic_wrap", div("userpic", initials("AB")))]
    whole = [service(n, "A changed group photo").removesuffix("</div>\n") for n in (1, 2)]
    pages = [f"{one}{block}\n     </div>\n" for one, block in zip(whole, blocks, strict=True)]
    rows, _ = read(page(*pages))
    assert [row["media"] for row in rows] == [{"photo": "photos/photo_7.jpg"}, None]
    assert [row["extra"] for row in rows] == [None, None]


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


def test_blocks_that_no_known_release_has_are_kept(read: Read) -> None:
    """In a message, in what it forwards, beside a service message, and as media."""
    quote, card = (
        div("quote", "Line 1<br>Line 2"),
        div("card", '<a href="../x/y.html">go</a>\n<img src="p.jpg"/>'),
    )
    forwarded = div("forwarded body", div("from_name", "Bo") + text("b") + quote)
    odd_service = service(4, "A did it").removesuffix("</div>\n") + f"{quote}\n     </div>\n"
    odd_media = div("media_wrap clearfix", div("card_wrap", '<a href="x.html">go</a>'))
    blank, pages = div("spacer", "<p> </p>"), [message(1, quote, text("a"), card), message(2, forwarded)]
    rows, reading = read(
        page(*pages, message(3, text("c"), text("d"), blank), odd_service, message(5, odd_media))
    )
    quoted = {"text": "Line 1\nLine 2"}
    assert [row["extra"] and row["extra"]["other_blocks"] for row in rows] == [
        [quoted, {"text": "go", "links": ["x/y.html", "p.jpg"]}], [quoted], [{"text": "d"}], [quoted], None,
    ]  # fmt: skip
    assert [row["text"] for row in rows] == ["a", "b", "c", "A did it", ""]
    assert rows[4]["media"] == {"media_type": "unknown", "media_text": "go", "media_links": ["x.html"]}
    assert reading.reason is None


def test_a_message_that_swallowed_a_call_is_no_call(read: Read) -> None:
    open_ended = message(1, text("one")).removesuffix("\n     </div>\n").removesuffix("\n      </div>\n")
    rows, _ = read(
        page(open_ended, message(2, media("media_call success", "Bo", "", "Outgoing (20 seconds)")))
    )
    assert [(row["message_id"], row["type"], row["action"]) for row in rows] == [
        (1, "message", None),
        (2, "service", "phone_call"),
    ]


def test_the_layout_of_the_file_is_no_part_of_a_text() -> None:
    layout = re.compile(r"\n *$")
    for length in range(8):
        for characters in itertools.product("a \n", repeat=length):
            words = "".join(characters)
            assert without_indent(words) == layout.sub("", words)


def test_day_bars_are_left_out_and_messages_of_a_migrated_group_are_not(read: Read) -> None:
    rows, _ = read(
        page(service(-1, "Day"), service(-999_678_450, "A took a screenshot"), message(-999_678_449))
    )
    assert [row["message_id"] for row in rows] == [-999_678_450, -999_678_449]
