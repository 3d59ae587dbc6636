"""Exports that an editor saved in an encoding of before Unicode: read if that is certain, else named."""

from pathlib import Path

import html_pages
import json_chats
import pytest
from html_pages import message, page, text

RUSSIAN = ["Привет, как дела?", "Завтра встречаемся у метро в семь.", "Не забудь взять билеты, хорошо?"]
FRENCH = [
    "Où êtes-vous ? Déjà arrivés ? Moi, j’ai préféré rester à côté de la forêt.",
    "C’était très bon, à bientôt ! Le dîner sera prêt à neuf heures, après la fête d’été.",
    "Ça va être génial, ma chère : Noël, le réveillon, les cadeaux désirés, la crème brûlée…",
]
CHINESE = ["你好，今天晚上我们一起吃饭吧。", "明天见，别忘了带票。", "好的，我会准时到的。"]
TEXTS = [(RUSSIAN, "cp1251"), (RUSSIAN, "koi8-r"), (RUSSIAN, "cp866"), (FRENCH, "cp1252"), (CHINESE, "gbk")]


def pages(texts: list[str]) -> tuple[str, str]:
    """Return a chat in two parts whose title and sender are in the same encoding, which they do not state."""
    first = [message(number, text(one), sender=texts[1]) for number, one in enumerate(texts, 1)]
    return page(*first, name=texts[0], following="messages2.html"), page(
        *(message(10 + number, text(one)) for number, one in enumerate(texts)),
        name=texts[0],
        back="messages.html",
    )


@pytest.mark.parametrize(("texts", "encoding"), TEXTS)
def test_an_export_in_an_encoding_of_before_unicode_is_read(
    tmp_path: Path, texts: list[str], encoding: str
) -> None:
    rows, reading = html_pages.reader(tmp_path)(*(one.encode(encoding) for one in pages(texts)))
    assert [row["text"] for row in rows] == [*texts, *texts]
    assert (rows[0]["sender_name"], reading.chats[0].name, reading.reason) == (texts[1], texts[0], None)
    messages = [json_chats.message(id=number, text=one) for number, one in enumerate(texts)]
    export = json_chats.layouts(json_chats.chat(*messages, name=texts[0]))[0]
    assert "\\u" in export
    raw = export.encode().decode("unicode_escape").encode(encoding)
    rows, reading = json_chats.reader(tmp_path)(raw)
    assert [row["text"] for row in rows] == texts
    assert (reading.chats[0].name, reading.reason) == (texts[0], None)


def test_what_may_be_in_several_encodings_is_not_guessed(tmp_path: Path) -> None:
    """Few letters, two encodings in one page, and bytes in it that no encoding has."""
    few = page(message(1, text("Où êtes-vous ? Déjà arrivés ?"))).encode("cp1252")
    russian, utf8 = pages(RUSSIAN)[0].encode("cp1251"), pages(RUSSIAN)[0].encode()
    broken = russian.replace(RUSSIAN[2].encode("cp1251"), RUSSIAN[2].encode("cp1251") + b"\x98")
    for content in (few, russian.partition(b"</html>")[0] + utf8, broken):
        rows, reading = html_pages.reader(tmp_path)(content)
        assert "\ufffd" in "".join(row["text"] for row in rows)
        assert "that are not UTF-8" in (reading.reason or "") or "that is not UTF-8" in (reading.reason or "")
