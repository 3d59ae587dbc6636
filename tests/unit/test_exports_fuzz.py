"""For any bytes a reader returns rows or a reason and never raises an exception."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.exports.columns import CHATS, MESSAGES
from flows.exports.discover import Export, discover
from flows.exports.formats import read_export
from flows.exports.reading import Reading

FUZZ = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
NAMES = """
id type date date_unixtime edited from from_id actor actor_id action text text_entities reactions
reply_to_message_id reply_to_peer_id photo title members x
"""
KEYS = st.sampled_from(NAMES.split())
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=6)
#: Messages with any members; about half of them have a valid id.
MESSAGE = OBJECTS | OBJECTS.map(lambda members: {**members, "id": len(members)})
CHAT = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGE | VALUES, max_size=4)},
    optional={
        "id": VALUES,
        "type": st.sampled_from(["personal_chat", "private_group", "x", 5]),
        "name": VALUES,
    },
)
ACCOUNT = st.fixed_dictionaries(
    {"chats": st.fixed_dictionaries({"list": st.lists(CHAT | VALUES, max_size=3)}) | VALUES},
    optional={"personal_information": VALUES, "left_chats": VALUES},
)
PIECES = """
<div class="page_header"><div class="text bold">
<div class="history">
</div>
<br>
</html>
<div class="message default clearfix" id="message1">
<div class="message service" id="message-9">
<div class="body">
<div class="forwarded body">
<div class="from_name">
<div class="text">
<div class="pull_right date details" title="99.99.2020 01:02:03 UTC+99:99">
<div class="media_wrap">
<a class="media media_file" href="&#0;">
<a class="media media_venue" href="?q=9,9">
<a class="photo_wrap">
<div class="media_poll">
<div class="answer">
<span class="reactions">
<span class="reaction">
<table class='bot_buttons_table'><td class="bot_button_row">
x\0é
"""
HTML = st.lists(st.sampled_from(PIECES.split("\n")), max_size=30).map("".join)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def outcome(export: Export) -> Reading:
    """Read to the end; check that counts agree with the rows and that PostgreSQL accepts the rows."""
    reading = Reading("000001-x")
    rows = [row for batch in _checked(read_export(export, reading)) for row in batch.to_pylist()]
    assert len(rows) == reading.messages
    assert reading.chat_rows().schema == CHATS
    assert {row["chat_key"] for row in rows} <= {chat.chat_key for chat in reading.chats}
    for row in rows:
        row["text"].encode()
        assert "\0" not in row["text"] + (row["sender_name"] or "") + row["type"]
        for name in ("entities", "media", "forward", "service", "reactions", "extra"):
            assert "\\u0000" not in (row[name] or "")
            json.loads(row[name] or "0")
    return reading


def _checked(batches: Iterator[Any]) -> Iterator[Any]:
    for batch in batches:
        assert batch.schema == MESSAGES
        batch.validate(full=True)
        yield batch


@FUZZ
@given(content=st.binary(max_size=300), form=st.sampled_from(["json", "html"]))
def test_any_bytes(folder: Path, content: bytes, form: str) -> None:
    path = folder / f"messages.{form}"
    path.write_bytes(content)
    assert outcome(Export(form, (path,))).reason
    for name in ("any.json", "any.html", "any"):
        (folder / name).write_bytes(content)
        discover(folder / name)


@FUZZ
@given(export=CHAT | ACCOUNT | VALUES, indent=st.sampled_from([None, 1, 4]))
def test_any_json(folder: Path, export: Any, indent: int | None) -> None:
    path = folder / "result.json"
    path.write_bytes(json.dumps(export, indent=indent).encode())
    outcome(Export("json", (path,)))


@FUZZ
@given(
    export=CHAT | ACCOUNT,
    indent=st.sampled_from([None, 1]),
    where=st.floats(0, 1),
    noise=st.binary(max_size=4)
    | st.sampled_from([b'"', b"{", b"}", b"]", b"\\", b"\n ]", b"\n  },\n  {", b","]),
    cut=st.integers(0, 9),
)
def test_json_with_bytes_inserted_or_removed(
    folder: Path, export: Any, indent: int | None, where: float, noise: bytes, cut: int
) -> None:
    content = json.dumps(export, indent=indent, ensure_ascii=False).encode("utf-8", "surrogatepass")
    at = int(where * len(content))
    path = folder / "result.json"
    path.write_bytes(content[:at] + noise + content[at + cut :])
    outcome(Export("json", (path,)))


@FUZZ
@given(first=HTML, second=HTML)
def test_any_html(folder: Path, first: str, second: str) -> None:
    parts = (folder / "messages.html", folder / "messages2.html")
    for part, content in zip(parts, (first, second), strict=True):
        part.write_text(content)
    outcome(Export("html", parts))


@pytest.mark.parametrize("opener", ['{"a":', "[", '{"messages":[{"a":['])
def test_deep_nesting_is_left_out(folder: Path, opener: str) -> None:
    deep = "[" * 50_000 + "]" * 50_000
    for content in (
        opener * 100_000,
        f'{{"messages": [{{"id": 1}}, {{"id": 2, "x": {deep}}}, {{"id": 3}}]}}',
    ):
        path = folder / "result.json"
        path.write_text(content)
        assert outcome(Export("json", (path,))).reason


def test_deep_html(folder: Path) -> None:
    path = folder / "messages.html"
    path.write_text('<div class="history"><div class="message default" id="message1">' + "<div>" * 50_000)
    assert outcome(Export("html", (path,))).reason
