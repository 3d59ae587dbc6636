"""The exports that are found in folders, as people pack them."""

from pathlib import Path

import pytest
from html_pages import message, page, service

from flows.exports.discover import discover
from flows.stages.convert.members import not_read

JSON = b'{"name": "Chat", "type": "personal_chat", "id": 1, "messages": []}'
OTHER_JSON = b'{"name": "package", "dependencies": {}}'
PAGE = b'<html><div class="page_body chat_page"><div class="history"></div></div></html>'
OTHER_PAGE = b'<html><div class="page_body list_page"></div></html>'


def part(number: int, bar: int | None = None, **options: str) -> bytes:
    bars = [service(bar, "28 July 2025")] if bar else []
    return page(*bars, message(number), **options).encode()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, []),
        ({"notes.txt": b"x"}, []),
        ({"notes.txt": b"x", "photos/1.jpg": b"x"}, []),
        ({"result.json": JSON}, ["json result.json"]),
        ({"a/b/c/d/result.json": JSON, "e/result.json": JSON},
         ["json a/b/c/d/result.json", "json e/result.json"]),
        ({"result (1).json": JSON, "MyChat.json": JSON, "package.json": OTHER_JSON},
         ["json MyChat.json", "json result (1).json"]),
        ({"x/result.json": b"broken", "y.txt": b""}, ["json x/result.json"]),
        ({"only.json": OTHER_JSON}, ["json only.json"]),  # a single file: reading it reports the problem
        ({"messages.html": PAGE, "messages2.html": PAGE, "messages10.html": PAGE, "css/style.css": b""},
         ["html messages.html messages2.html messages10.html"]),
        ({"a/messages.html": PAGE, "b/messages.html": PAGE},
         ["html a/messages.html", "html b/messages.html"]),
        ({"messages (1).html": PAGE, "Chat.htm": PAGE, "index.html": OTHER_PAGE},
         ["html Chat.htm", "html messages (1).html"]),
        # Both forms: reading finds out whether the HTML has more than the JSON.
        ({"E/result.json": JSON, "E/messages.html": PAGE, "F/messages.html": PAGE},
         ["json E/result.json", "html E/messages.html", "html F/messages.html"]),
        ({"D/result.json": JSON, "D/export_results.html": OTHER_PAGE, "D/lists/chats.html": OTHER_PAGE,
          "D/chats/chat_001/messages.html": PAGE},
         ["json D/result.json", "html D/chats/chat_001/messages.html"]),
        # Parts are found by their links, titles and ids.
        ({"index.html": part(1, following="messages2.html"), "messages2.html": part(3, back="messages.html")},
         ["html index.html messages2.html"]),
        ({"messages1.html": part(1, following="messages2.html"), "a.htm": part(3, back="messages.html")},
         ["html messages1.html a.htm"]),
        ({"messages.html": part(1, following="messages2.html"), "messages2.html": part(1, name="Other")},
         ["html messages.html", "html messages2.html"]),
        ({"messages.html": part(5, following="messages2.html"),
          "messages2.html": part(2, back="messages.html")},
         ["html messages.html", "html messages2.html"]),
        ({"messages.html": part(1), "messages (1).html": part(7, following="messages2.html"),
          "messages2.html": part(9, back="messages.html")},
         ["html messages (1).html messages2.html", "html messages.html"]),
        # A title was changed by hand: links, day bars and ids go on.
        ({"messages.html": part(1, following="messages2.html", bar=-7),
          "messages2.html": part(3, back="messages.html", bar=-8, name="Other")},
         ["html messages.html messages2.html"]),
        ({"messages.html": part(1, following="messages2.html", bar=-7),
          "messages2.html": part(3, back="messages.html", bar=-9, name="Other")},
         ["html messages.html", "html messages2.html"]),
        ({"D/export_results.html": OTHER_PAGE, "D/lists/chats.html": OTHER_PAGE,
          "D/chats/chat_002/messages.html": PAGE, "D/chats/chat_001/messages.html": PAGE,
          "D/chats/chat_001/messages2.html": PAGE},
         ["html D/chats/chat_001/messages.html D/chats/chat_001/messages2.html",
          "html D/chats/chat_002/messages.html"]),
    ],
)  # fmt: skip
def test_exports_in_a_folder(tmp_path: Path, files: dict[str, bytes], expected: list[str]) -> None:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    found = []
    for form, parts in discover(tmp_path):
        paths = " ".join(part.relative_to(tmp_path).as_posix() for part in parts)
        found.append(f"{form} {paths}")
    assert found == expected


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [("000001-any.json", OTHER_JSON, "json"), ("000001-Chat.HTML", b"", "html"),
     ("000001-chat", PAGE, "html"), ("000001-chat", JSON, "json")],
)  # fmt: skip
def test_a_single_file_is_always_an_export(tmp_path: Path, name: str, content: bytes, form: str) -> None:
    (tmp_path / name).write_bytes(content)
    (export,) = discover(tmp_path / name)
    assert export == (form, (tmp_path / name,))


def test_pages_with_long_styles_in_their_heads_are_parts_of_a_chat(tmp_path: Path) -> None:
    """Extensions of browsers save a page as one file, with its styles and icons before its body."""
    style = b"<style>" + b"a" * 200_000 + b"</style>\n </head>"
    links = {"Data (1).html": {"following": "messages2.html"}, "Data.html": {"back": "messages.html"}}
    for number, (name, link) in enumerate(links.items(), 1):
        (tmp_path / name).write_bytes(part(number, **link).replace(b" </head>", style))
    (tmp_path / "other.html").write_bytes(OTHER_PAGE.replace(b"<div", style, 1))
    (found,) = discover(tmp_path)
    assert [path.name for path in found.parts] == list(links)
    assert not_read(tmp_path, found.parts, None) is None
    assert not_read(tmp_path, found.parts[:1], None) == "not read: 'Data.html'"
