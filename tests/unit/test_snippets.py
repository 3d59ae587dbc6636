"""The snippet of a message shows what the search has found, and marks it."""

from __future__ import annotations

import pytest

from flows.tables.search_query import needles
from flows.tables.snippets import snippet_of


def test_a_snippet_is_one_line_around_the_first_match() -> None:
    text = "word " * 50 + "\n\nthe NEEDLE is here " + "word " * 50
    snippet, marks = snippet_of(text, ["needle"])
    assert snippet.startswith("…")
    assert snippet.endswith("…")
    assert [snippet[first:end] for first, end in marks] == ["NEEDLE"]
    assert snippet_of("short", ["other"]) == ("short", [])
    assert snippet_of("", ["x"]) == ("", [])


@pytest.mark.parametrize(
    ("given", "text", "marked"),
    [
        ("isik lodz", "ışık Łódź", ["ışık", "Łódź"]),
        ("oeuvre strasse finance", "œuvre Straße ﬁnance", ["œuvre", "Straße", "ﬁnance"]),
        ("مرحبا", "مَرْحَبًا بك", ["مَرْحَبًا"]),
        ("don't", "don’t", ["don’t"]),
        ("и", "й и", ["и"]),
        ("ครับ", "สวัสดีครับ ครบ", ["ครับ"]),
        ("नमस्ते", "हिन्दी नमस्ते", ["नमस्ते"]),
        ("北京", "北京 北京天安门", ["北京", "北京"]),
        ("カ", "ガカ", ["カ"]),
        ("iphone", "iPhone手机壳", ["iPhone"]),
        ("(c)", "C++ cc", ["C"]),
        ("cat", "concatenate " * 30 + "the cat sat", ["cat"]),
        ('"new york"', "new " * 99 + "New York", ["New York"]),
        ('"cat like"', "cat-like", ["cat-like"]),
        ('"b a"', "a b", ["a", "b"]),
        ("hous", "houses", ["hous"]),
    ],
)
def test_what_matches_is_in_the_snippet_and_marked(given: str, text: str, marked: list[str]) -> None:
    snippet, marks = snippet_of(text, needles(given))
    assert [snippet[first:end] for first, end in marks] == marked


def test_a_part_of_a_text_is_marked_inside_of_words_and_across_lines() -> None:
    snippet, marks = snippet_of("concat\nand cat", ["cat and"], whole=False)
    assert [snippet[first:end] for first, end in marks] == ["cat and"]
    snippet, marks = snippet_of("concat % cat", ["cat"], whole=False)
    assert [snippet[first:end] for first, end in marks] == ["cat", "cat"]
