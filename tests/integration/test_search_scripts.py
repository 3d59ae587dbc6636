"""Scripts without spaces beside others and punctuation: a text is found by itself and by its parts."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from converted import Export, store, write

from flows.ledger.connection import connection
from flows.tables.orders import Choice
from flows.tables.search import search
from flows.tables.search_index import index
from flows.tables.search_query import Phrase, groups, needles

TEXTS = [
    "我用iPhone手机拍照", "iPhone手机壳", "买了iPhone", "卡拉OK很好玩", "PS5が欲しい",
    "Tシャツを買った", "明天下午三点开会，请大家准时参加。", "𠮷野家で昼ご飯", "去7-11买东西",
    "A股大涨", "第1回", "2024年12月", "ข้อความLINE", "ハロー・ワールド", "AT&T的手机", "a < b 和 c > d",
    "<b>粗体</b>字", "https://t.me/北京?x=1&y=2", "文件_v2.pdf下载", "我", "OK我", "我OK", "哈" * 300,
    "哈哈" * 3, "時々、佐々木さん", "ﾃｽﾄです", "សួស្តីLINE", "မြန်မာ2024", "（北京）大学",
    "北京\n大学 图书馆", "Ⅳ级 ½杯 №5", "😀北京😀", "北京❤️上海", "“北京”", "mañana在北京", "ＯＫ手机",
    "١٢٣你好", "它—这个", "don't动", "node.js和C#", "1️⃣第一", "x=y的解", "foo/bar目录",
    "user@host邮箱", "3.14是π",
]  # fmt: skip
PIECES = [
    *"我爱北京ハTシ・ー々𠮷กัา。，（）<>&/.:_'’ @#1٣aZéßİ😀\u200d\ufe0f\u3000",
    "OK",
    "t.me/",
    "7-11",
    " ",
    " ",
]

Find = Callable[..., list[str]]


@pytest.fixture(params=["indexed", "pending"])
def find(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Find:
    """A function from a query to the texts that it finds; 150 random texts are there too."""
    rng = random.Random(7)
    texts = TEXTS + ["".join(rng.choices(PIECES, k=rng.randint(1, 12))) for _ in range(150)]
    texts = [text for text in texts if text.strip()]
    export = Export(1, "channel77", "News", [(n, n, text) for n, text in enumerate(texts, 1)])
    store(database_url, write(tmp_path / "1", export))
    with connection(database_url) as ledger:
        if request.param == "indexed":
            assert index(ledger).written == len(texts)

    def found(given: str, *, substring: bool = False) -> list[str]:
        with connection(database_url, readonly=True, autocommit=True) as ledger:
            hits = search(ledger, given, Choice(), substring=substring, limit=1000).hits
            return sorted(texts[hit.message_id - 1] for hit in hits)

    found.texts = texts  # type: ignore[attr-defined]
    return found


def test_every_text_is_found_by_itself(find: Find) -> None:
    lost = []
    for text in find.texts:  # type: ignore[attr-defined]
        if any(character.isalnum() for character in text) and text not in find(text):
            lost.append(text)
        assert text in find(text, substring=True)
    assert lost == []


def test_parts_of_mixed_texts_are_found(find: Find) -> None:
    known = set(TEXTS)
    for given, expected in {
        "iphone": ["iPhone手机壳", "买了iPhone", "我用iPhone手机拍照"],
        "iphone手机": ["iPhone手机壳", "我用iPhone手机拍照"],
        "用iphone手": ["我用iPhone手机拍照"],
        "手机 -iphone": ["AT&T的手机", "ＯＫ手机"],
        "手机 -iphone手机 -at&t": ["ＯＫ手机"],
        "OK": ["OK我", "我OK", "ＯＫ手机", "卡拉OK很好玩"],
        "ps5": ["PS5が欲しい"],
        "Tシャツ": ["Tシャツを買った"],
        "シャツを": ["Tシャツを買った"],
        "7-11": ["去7-11买东西"],
        "𠮷野": ["𠮷野家で昼ご飯"],
        "𠮷": ["𠮷野家で昼ご飯"],
        "佐々": ["時々、佐々木さん"],
        "大涨 A股": ["A股大涨"],
        '"北京 大学"': ["北京\n大学 图书馆", "（北京）大学"],
        "请大家": ["明天下午三点开会，请大家准时参加。"],
        "会请": [],
        "cat or 请大家 -cat": ["明天下午三点开会，请大家准时参加。"],
    }.items():
        assert (given, [text for text in find(given) if text in known]) == (given, sorted(expected))


def test_phrases_and_groups_of_a_query() -> None:
    assert groups('a "b c" -d or -"e f" g') == [
        [Phrase("a"), Phrase("b c"), Phrase("d", without=True)],
        [Phrase("e f", without=True), Phrase("g")],
    ]
    assert groups("or a or") == [[Phrase("or"), Phrase("a"), Phrase("or")]]
    assert groups("a - “b c") == [[Phrase("a"), Phrase("-"), Phrase("b c")]]
    assert groups('"or"') == [[Phrase("or")]]
    assert needles('a "b c" -d or -"e f" g') == ["a", "b c", "g"]
