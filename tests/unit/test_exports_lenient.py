"""JSON that is decoded leniently: hostile texts of a megabyte take no longer than others."""

from __future__ import annotations

import pytest

from flows.exports.lenient import lenient

LONG = 1_000_000


@pytest.mark.parametrize("odd", [",", ", ", ",\n\n"])
def test_commas_without_a_member_are_left_out_however_many(odd: str) -> None:
    assert lenient(f'{{"a": [1, 2{odd}], "b,}}": "x,]"{odd * LONG}}}'.encode()) == {"a": [1, 2], "b,}": "x,]"}


@pytest.mark.parametrize(
    "text", ['"' + '\\"' * LONG, ",1" * LONG, '"\\', "\\x1" * LONG, '"document_id":' * LONG]
)
def test_what_cannot_be_decoded_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="line 1"):
        lenient(f"[{text}".encode())
