"""Messages in Telegram Desktop's HTML: texts, times, senders, replies, service messages."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from html_pages import LOCAL, WHEN, Read, div, initials, media, message, page, reader, service, text


@pytest.fixture
def read(tmp_path: Path) -> Read:
    return reader(tmp_path)


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
        # Telegram Desktop for Linux in some languages.
        ("28.07.2025 20:49:27 +07", datetime(2025, 7, 28, 13, 49, 27, tzinfo=UTC), LOCAL),
        ("28.07.2025 20:49:27 +0530", datetime(2025, 7, 28, 15, 19, 27, tzinfo=UTC), LOCAL),
        ("28.07.2025 20:49:27 MSK", datetime(2025, 7, 28, 17, 49, 27, tzinfo=UTC), LOCAL),
        ("28.07.2025 20:49:27 CET", None, LOCAL),
        ("28.07.2025 20:49:27 PKT", None, LOCAL),
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


@pytest.mark.parametrize(
    "shown",
    ['date details" title="01.02.2020 03:04:05', "details"],  # since 2022-06, and before
)
def test_the_origin_of_a_forwarded_message_is_not_its_sender(read: Read, shown: str) -> None:
    stamp = f'<span class="{shown}"> 01.02.2020 03:04:05</span>'
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
        ("A invited B and C", {"action": "invite_members", "sender_name": "A", "service": None}),
        ("A started voice chat (61 seconds)",
         {"action": "group_call", "sender_name": "A", "service": {"duration": 61}}),
        ("A changed topic title to &laquo;T, &raquo;U&raquo;,icon to &laquo;5&raquo;",
         {"action": "topic_edit", "service": {"new_title": "T, »U", "new_icon_emoji_id": "5"}}),
        ("New messages will auto-delete in 7 days", {"action": "set_messages_ttl", "sender_name": None}),
        ('A set <a href="#go_to_message4">the same background</a> for this chat',
         {"action": "set_same_chat_wallpaper", "service": {"message_id": 4}}),
        ("You won a Telegram Premium for 3 months prize in a giveaway organized by a channel.",
         {"action": "gift_code_prize", "sender_name": None, "service": {"months": 3}}),
        ("You've received a Telegram Premium for 1month gift from a channel.",
         {"action": "gift_code_prize", "service": {"months": 1}}),
        ("You won a prize in a giveaway organized by B.\n Your prize is 50 Telegram Stars.",
         {"action": "stars_prize", "sender_name": None, "service": {"boost_peer_name": "B", "stars": 50}}),
        ("A sent you a gift for $5: 2.5 TON.",
         {"action": "send_ton_gift", "sender_name": "A", "service": {"cost": "$5"}}),
        ("A sent you a gift for $5: 1e+06 Telegram Stars.", {"action": "send_stars_gift"}),
        ("A sent you a gift.", {"action": None, "sender_name": "A"}),
        ("B will become the new main admin in 7 days if A does not return",
         {"action": "new_creator_pending", "sender_name": "A", "service": {"new_creator": "B"}}),
        ("Deleted invited Deleted Account",
         {"action": "invite_members", "sender_name": None, "service": {"members": [None]}}),
        ("A removed B and C", {"action": "remove_members", "service": {"members": ["B and C"]}}),
        ("B is now within 950 meters from you",
         {"action": "proximity_reached", "sender_name": "B", "service": None}),
        ("You are now within 1.55 km from B",
         {"action": "proximity_reached", "sender_name": None, "service": {"to": "B"}}),
        ('A marked 1, 2 and 30 as done and 4 as not done yet in <a href="#x">this todo list</a>.',
         {"action": "todo_completions", "sender_name": "A",
          "service": {"completed": [1, 2, 30], "incompleted": [4]}}),
        ("Price per direct message changed to 10 Telegram Stars.",
         {"action": "paid_messages_price_change", "service": {"price_stars": 10}}),
        ("A removed &quot;No&quot; from the poll.",
         {"action": "poll_delete_answer", "sender_name": "A", "service": {"option": "No"}}),
        ("A added tasks: &quot;who removed it&quot;", {"action": "todo_append_tasks", "sender_name": "A"}),
        ('A marked 1 as done in <a href="#go_to_message4">this todo list</a>.',
         {"action": "todo_completions", "sender_name": "A", "service": {"completed": [1], "message_id": 4}}),
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
        ("A made " * 200_000, {"action": None, "sender_name": None}),  # in time that grows with its length
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
    (row,), _ = read(page(message(1, media("media_call", "Bo", "", "Invitation"))))
    assert row["action"] == "conference_call"


def test_the_photo_of_a_service_message_is_kept(read: Read) -> None:
    """Its path, as in JSON; a photo that was not exported is shown by initials."""
    picture = '<a class="userpic_link" href="../../photos/photo_7.jpg">\n<img src="photos/t.jpg"/></a>'
    blocks = [div("userpic_wrap", picture), div("userpic_wrap", div("userpic", initials("AB")))]
    whole = [service(n, "A changed group photo").removesuffix("</div>\n") for n in (1, 2)]
    pages = [f"{one}{block}\n     </div>\n" for one, block in zip(whole, blocks, strict=True)]
    rows, _ = read(page(*pages))
    assert [row["media"] for row in rows] == [{"photo": "photos/photo_7.jpg"}, None]
    assert [row["extra"] for row in rows] == [None, None]


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


def test_a_message_that_swallowed_a_call_is_not_a_call(read: Read) -> None:
    open_ended = message(1, text("one")).removesuffix("\n     </div>\n").removesuffix("\n      </div>\n")
    rows, _ = read(
        page(open_ended, message(2, media("media_call success", "Bo", "", "Outgoing (20 seconds)")))
    )
    assert [(row["message_id"], row["type"], row["action"]) for row in rows] == [
        (1, "message", None),
        (2, "service", "phone_call"),
    ]


def test_day_bars_are_left_out_and_messages_of_a_migrated_group_are_not(read: Read) -> None:
    rows, _ = read(
        page(service(-1, "Day"), service(-999_678_450, "A took a screenshot"), message(-999_678_449))
    )
    assert [row["message_id"] for row in rows] == [-999_678_450, -999_678_449]
