"""Exports as Telegram Desktop and other programs write them, and invalid ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from cases import Case, Chat, partly, quarantined, stored
from packing import zipped

MB = 1 << 20


def dumped(**options: Any) -> Callable[[Chat], bytes]:
    """Return the export in the layout of another program."""
    return lambda chat: json.dumps(json.loads(chat.json), **options).encode("utf-8", "surrogatepass")


def with_member(raw: bytes) -> Callable[[Chat], bytes]:
    """Return the export with the unchanged bytes ``raw`` as a further member of its second message."""
    return lambda chat: chat.json.replace(b'"text": "2"', b'"text": "2",\n   ' + raw)


def with_third(**members: Any) -> Callable[[Chat], bytes]:
    return lambda chat: chat.dump(chat.message(1), chat.message(2), chat.message(3, **members))


def with_text(raw: bytes) -> Callable[[Chat], bytes]:
    """Return the export with the unchanged bytes ``raw`` as the text of its second message."""
    return lambda chat: chat.json.replace(b'"text": "2"', b'"text": ' + raw)


def reordered(chat: Chat) -> bytes:
    whole = json.loads(chat.json)
    return json.dumps({"messages": whole.pop("messages"), **whole}, indent=2).encode()


def nulls(chat: Chat) -> bytes:
    empty = dict.fromkeys(chat.message(2))
    return chat.dump(chat.message(1), empty | {"id": 2}, name=None)


def parts(*files: tuple[str, Callable[[Chat], bytes]]) -> Callable[[Chat], bytes]:
    return lambda chat: zipped(*((name, make(chat)) for name, make in files))


DEEP = b"[" * 50_000 + b"]" * 50_000
JSON = [
    stored("compact JSON", dumped(separators=(",", ":"))),
    stored("JSON with tabs", dumped(indent="\t")),
    stored("JSON on one line", dumped()),
    stored("JSON with sorted keys", dumped(indent=1, sort_keys=True)),
    stored("JSON in ASCII", dumped(indent=1, ensure_ascii=True)),
    stored("JSON with Windows' line ends", lambda chat: chat.json.replace(b"\n", b"\r\n")),
    stored("JSON with a byte order mark", lambda chat: b"\xef\xbb\xbf" + chat.json),
    stored("messages first", reordered),
    stored("escapes of control characters", with_text(rb'"a\x01b"')),
    stored("document_id unquoted", with_member(b'"document_id": (File not included. Change data.)')),
    stored("NUL", with_text(rb'"a\u0000b"')),
    stored("raw NUL", with_text(b'"a\0b"')),
    stored("lone surrogates", with_text(rb'"\ud83d and \ude00"')),
    partly("bytes that are not UTF-8", with_text(b'"\xff\xfe\xc3"'), "replaced in 1 text that is not UTF-8"),
    stored("line breaks in a text", with_text(b'"a\tb"')),
    stored("NaN and infinities", with_member(b'"a": NaN, "b": [-Infinity, Infinity]')),
    stored("numbers beyond 64 bits", with_member(b'"file_size": 99999999999999999999999, "width": -1e400')),
    stored("number of 200,000 digits", with_member(b'"x": ' + b"9" * 200_000)),
    stored(
        "impossible dates",
        lambda chat: chat.dump(
            chat.message(1, date="2024-02-31T25:61:61", date_unixtime="9" * 30),
            chat.message(2, date=5, date_unixtime="x", edited="0000-00-00T00:00:00"),
        ),
    ),
    stored(
        "dates of other ages",
        lambda chat: chat.dump(
            chat.message(1, date="0001-01-01T00:00:00", date_unixtime="-62135596800"),
            chat.message(2, date="9999-12-31T23:59:59", date_unixtime="253402300799"),
        ),
    ),
    stored("null everywhere", nulls),
    stored(
        "members of other types",
        lambda chat: chat.dump(
            chat.message(1), {"id": 2, "type": [], "text": {"a": 1}, "from": 5, "reactions": "x", "date": {}}
        ),
    ),
    stored(
        "one id twice",
        lambda chat: chat.dump(chat.message(1), chat.message(2), chat.message(2, text="again")),
        read=3,
    ),
    stored("no messages", lambda chat: chat.dump(), rows=0),
    stored(
        "an account without chats",
        lambda _: b'{"about": "x", "personal_information": {"user_id": 7}}',
        rows=0,
    ),
    stored(
        "a message of 50 MB", lambda chat: chat.dump(chat.message(1), chat.message(2, text="x" * 50 * 10**6))
    ),
    stored(
        "text of 100,000 parts",
        lambda chat: chat.dump(
            chat.message(1), chat.message(2, text=[{"type": "bold", "text": "x"}] * 100_000)
        ),
    ),
    partly(
        "a message of 90 MB",
        lambda chat: chat.dump(chat.message(1), chat.message(2), chat.message(3, text="x" * 90 * MB)),
        "longer than 64 MiB",
    ),
    partly(
        "deep nesting",
        lambda chat: with_third(x="DEEP")(chat).replace(b'"DEEP"', DEEP),
        "1 unreadable message left out",
    ),
    partly("an id beyond 64 bits", with_third(id=2**64), "1 message without a usable id"),
    partly(
        "elements that are not messages",
        lambda chat: chat.dump(chat.message(1), None, 7, chat.message(2), "x", []),
        "4 unreadable messages left out",
    ),
    partly("cut off in the middle", lambda chat: with_third()(chat)[:-40], "cut off in the middle"),
    partly("commas missing", lambda chat: chat.json.replace(b"},", b"}"), "commas missing in its JSON: 1"),
    partly(
        "two exports, one of them broken",
        parts(("a/result.json", lambda chat: chat.json), ("b/result.json", lambda _: b'{"messages": [')),
        "b/result.json: cut off",
    ),
    quarantined(
        "not JSON",
        parts(("result.json", lambda _: b'messages": are what I wanted')),
        "'result.json': not a Telegram export, it is not JSON",
    ),
    quarantined("JSON cut off before its messages", lambda chat: chat.json[:30], "before its first message"),
    quarantined("JSON without its chat", lambda c: json.dumps([c.message(1)]).encode(), "of which chat"),
    quarantined("JSON of another shape", lambda _: b'{"dependencies": {}}', "not a Telegram export"),
    quarantined("a list", parts(("result.json", lambda _: b"[1, 2]")), "not a Telegram export"),
    quarantined("messages that are a number", lambda _: b'{"messages": 5}', "not a Telegram export"),
    quarantined("cut off at once", lambda _: b'{"messages": [{"id": 1, "te', "cut off in the middle"),
    quarantined("only brackets", lambda _: b'{"messages": [{"a":' + b"[" * 100_000, "cut off"),
]

BODY = b'<div class="body">'
INITIALS = b'<div class="userpic_wrap"><div class="initials">\n<A\n </div></div>'
ELEMENT = b'<html><body id="matrixchat"><div class="mx_RoomHeader_name">Garden</div></body></html>'
HTML = [
    stored(
        "HTML in two parts",
        parts(
            ("messages.html", lambda chat: chat.part(1, following="messages2.html")),
            ("messages2.html", lambda chat: chat.part(2)),
        ),
    ),
    stored("HTML with single quotes", lambda chat: chat.html.replace(b'"', b"'")),
    stored("HTML on one line", lambda chat: chat.html.replace(b"\n", b"")),
    stored("HTML printed prettily", lambda chat: chat.html.replace(b"><", b">\n      <")),
    stored("HTML with tags unclosed", lambda chat: chat.html.replace(b"</body>", b"<p><i><table><td>")),
    partly(
        "HTML with bytes that are not UTF-8",
        lambda chat: chat.html.replace(b'"text">2', b'"text">\xff\xfe\0'),
        "replaced in 1 text",
    ),
    stored(
        "HTML with an invalid date",
        lambda chat: chat.html.replace(f"{chat.time(2):%d.%m.%Y}".encode(), b"99.99.2024"),
    ),
    stored(
        "HTML and JSON of one export",
        parts(("a/result.json", lambda chat: chat.json), ("a/messages.html", lambda chat: chat.html)),
    ),
    stored("HTML with Windows' line ends", lambda chat: chat.html.replace(b"\n", b"\r\n")),
    stored(
        "HTML in UTF-16 in ZIP", parts(("messages.html", lambda chat: chat.html.decode().encode("utf-16")))
    ),
    stored("HTML with initials that begin a tag", lambda chat: chat.html.replace(BODY, INITIALS + BODY)),
    stored(
        "HTML whose first part is called index.html",
        parts(
            ("site/index.html", lambda chat: chat.part(1, following="messages2.html")),
            ("site/messages2.html", lambda chat: chat.part(2)),
        ),
    ),
    stored(
        "HTML of one chat beside JSON of another",
        parts(
            ("result.json", lambda chat: chat.json),
            ("messages.html", lambda chat: Chat(chat.id + 90_000).html),
        ),
        rows=4,
    ),
    stored(
        "HTML that is longer than the JSON beside it",
        parts(
            ("result.json", lambda chat: chat.dump(chat.message(2))),
            ("messages.html", lambda chat: chat.part(1, 2, 3)),
        ),
        rows=3,
    ),
    partly(
        "JSON beside a page of Element",
        parts(("result.json", lambda chat: chat.json), ("messages.html", lambda _: ELEMENT)),
        "written by Element (Matrix)",
    ),
    partly(
        "HTML with a part missing",
        parts(
            ("messages.html", lambda chat: chat.part(1, following="messages2.html")),
            ("messages3.html", lambda chat: chat.part(2)),
        ),
        "parts missing: messages2.html; submit all parts",
    ),
    partly(
        "HTML with the last part missing",
        parts(("messages.html", lambda chat: chat.part(1, 2, following="messages2.html"))),
        "parts missing: messages2.html; submit all parts",
    ),
    partly("HTML cut off", lambda chat: chat.part(1, 2, 3)[:-150], "messages.html is cut off"),
    partly(
        "HTML nested deeply",
        lambda chat: chat.html.replace(b"</html>", b"") + b"<div>" * 50_000,
        "messages.html is cut off",
    ),
    quarantined(
        "another page", lambda _: b"<!DOCTYPE html><html><body>Hello</body></html>", "no chat in its HTML"
    ),
    quarantined(
        "another page in a ZIP",
        parts(("messages.html", lambda _: b"<html><body>Hello</body></html>")),
        "no chat in its HTML",
    ),
]

EXPORTS: list[Case] = [*JSON, *HTML]
